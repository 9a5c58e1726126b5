"""Streams as data sets of the library `datasets`, and the examples for other trainers."""

import importlib.util
import json
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from digits import VIT, samples, stream_of, write_corpus, write_index
from task_cases import LLAMA

from catalogs import Corpus, IndexFile, LossCatalog
from pipeline.config import run_config
from trainers.hf import HuggingFaceModels, save_preprocessing
from trainers.inputs.tokenizer import train_tokenizer

datasets = pytest.importorskip("datasets")

ROOT = Path(__file__).parents[2]
NUM_SAMPLES = 40


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ids_of(rows: Any) -> list[tuple[int, int]]:
    return [(row["shard_id"], row["row"]) for row in rows]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of texts with an index of all rows, and a small language model."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [{"text": f"number {number} is a number", "step": number} for number in range(700)]
    corpus = write_corpus(folder / "shards", rows)
    corpus.save(str(folder))
    write_index(folder / "index.parquet", corpus)
    write_index(folder / "few.parquet", corpus, every=9)
    train_tokenizer([row["text"] for row in rows], folder / "model", vocab_size=300)
    models = HuggingFaceModels("AutoModelForCausalLM", {"config": LLAMA["config"]})
    models.save(models.build(1), folder / "model")
    save_preprocessing(str(folder / "model"), folder / "model")
    return folder


def stream(folder: Path, *, index: str = "index.parquet", **settings: Any) -> Any:
    corpus = Corpus.open(str(folder))
    opened = IndexFile.open(str(folder / index), corpus=corpus)
    return stream_of(opened, corpus, None, **settings)


def test_samples_come_in_the_order_of_the_stream_with_its_weights(texts: Path) -> None:
    expected = [
        row
        for batch in stream(texts, epochs=2)
        for row in zip(
            batch["shard_id"].tolist(), batch["row"].tolist(), batch["text"], strict=True
        )
    ]
    iterable = stream(texts, epochs=2).as_hf_iterable()
    assert isinstance(iterable, datasets.IterableDataset)
    assert iterable.column_names == ["step_column", "text", "shard_id", "row", "weight"]
    read = list(iterable)
    assert [(row["shard_id"], row["row"], row["text"]) for row in read] == expected
    assert {row["weight"] for row in read} == {1.0}
    assert ids_of(iterable) == ids_of(read)


@pytest.mark.parametrize("num_read", [0, 1, 255, 256, 300, 700])
def test_a_state_continues_with_the_next_sample(texts: Path, num_read: int) -> None:
    expected = ids_of(stream(texts).as_hf_iterable())
    first = stream(texts).as_hf_iterable()
    assert ids_of(islice(first, num_read)) == expected[:num_read]
    state = json.loads(json.dumps(first.state_dict()))
    second = stream(texts).as_hf_iterable()
    second.load_state_dict(state)
    assert ids_of(second) == expected[num_read:]


def test_it_starts_where_the_stream_is(texts: Path) -> None:
    expected = ids_of(stream(texts).as_hf_iterable())
    resumed = stream(texts)
    resumed.load_state_dict(resumed.state_at(40))
    assert ids_of(resumed.as_hf_iterable()) == expected[40 * 8 :]


def test_workers_and_nodes_share_the_samples(texts: Path) -> None:
    from datasets.distributed import split_dataset_by_node

    whole = ids_of(stream(texts).as_hf_iterable())
    nodes = [
        ids_of(split_dataset_by_node(stream(texts).as_hf_iterable(), rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert sorted(nodes[0] + nodes[1]) == sorted(whole)
    ranks = [stream(texts, rank=rank, world_size=2).as_hf_iterable() for rank in range(2)]
    assert sorted(ids_of(ranks[0]) + ids_of(ranks[1])) == sorted(whole)


def test_torchtitans_loader_gives_texts_and_a_state(texts: Path) -> None:
    torchtitan = example("torchtitan_dataset")
    data = torchtitan.load(f"{texts}::{texts / 'index.parquet'}")
    some = [torchtitan.text_of(sample) for sample in islice(data, 10)]
    assert all(text.startswith("number ") for text in some)
    rest = torchtitan.load(f"{texts}::{texts / 'index.parquet'}")
    rest.load_state_dict(data.state_dict())
    assert len(set(some) | {torchtitan.text_of(sample) for sample in rest}) == 700


def test_accelerate_resumes_with_the_same_weights(tmp_path: Path) -> None:
    loop = example("accelerate_loop")
    corpus = write_corpus(tmp_path / "shards", samples(NUM_SAMPLES))
    run_config.freeze(
        run_config.parse(
            {
                "run": str(tmp_path / "run"),
                "corpus": {"shards": [str(tmp_path / "shards")]},
                "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
                "model": {"config": VIT["config"] | NO_DROPOUT},
                "training": {"batch_size": 5, "learning_rate": 0.1},
            }
        )
    )
    corpus.save(str(tmp_path / "run"))
    index = write_index(tmp_path / "index.parquet", corpus)
    whole, halves = tmp_path / "whole.pt", tmp_path / "halves.pt"
    loop.main(str(tmp_path / "run"), index.url, whole)
    saved = torch.load(whole, weights_only=True)
    assert saved["step"] == NUM_SAMPLES // 5
    with pytest.raises(KeyboardInterrupt):
        interrupted(loop, str(tmp_path / "run"), index.url, halves)
    assert torch.load(halves, weights_only=True)["step"] == 5
    example("accelerate_loop").main(str(tmp_path / "run"), index.url, halves)
    resumed = torch.load(halves, weights_only=True)
    assert resumed["step"] == saved["step"]
    for name, tensor in saved["model"].items():
        torch.testing.assert_close(resumed["model"][name], tensor, msg=name)


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def interrupted(loop: ModuleType, run: str, index: str, checkpoint: Path) -> None:
    """Run the loop until the sixth batch is collated after the first checkpoint."""
    collate, calls = loop.collate, iter(range(7))

    def stop(task: Any, rows: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return collate(task, rows)

    loop.collate = stop
    loop.main(run, index, checkpoint)


def test_sft_trainer_takes_every_step_and_resumes(texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    sft = example("trl_sft")
    arguments = (str(texts), str(texts / "few.parquet"), str(texts / "model"))
    sft.main(*arguments, str(tmp_path / "out"))
    num_steps = stream(texts, index="few.parquet").num_steps
    state = tmp_path / "out" / f"checkpoint-{num_steps}" / "trainer_state.json"
    assert json.loads(state.read_text())["global_step"] == num_steps
    last = tmp_path / "out" / f"checkpoint-{num_steps}"
    (tmp_path / "gone").mkdir()
    last.rename(tmp_path / "gone" / "checkpoint")
    sft.main(*arguments, str(tmp_path / "out"))
    assert json.loads(state.read_text())["global_step"] == num_steps


def test_values_in_a_notebook_are_shown_in_one_line(texts: Path) -> None:
    corpus = Corpus.open(str(texts))
    index = IndexFile.open(str(texts / "index.parquet"))
    shown = [repr(value) for value in (corpus, index, LossCatalog(str(texts)), stream(texts))]
    assert all("\n" not in text and len(text) < 200 for text in shown)
    assert ["700" in text for text in shown] == [True, True, False, True]
