"""Annotations by hidden states of a saved model: made by real clusters, and in a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from digits import TASK, VIT, samples, write_corpus
from raw_text import write_texts
from saved_models import save_language_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from attent_select.errors import InputError
from catalogs import AnnotationStore
from catalogs.shard_format import Sample
from pipeline.annotation.command import annotate
from pipeline.annotation.for_run import make_annotations
from pipeline.annotation.targets import TargetSettings
from pipeline.cli.app import app
from pipeline.cluster import Client, connect, scheduler_address
from pipeline.config import run_config
from pipeline.config.extension_settings import Extension
from pipeline.config.sections import ClusterSettings
from pipeline.corpus.ingest import ingest

IMAGES = ["task.name=image_classification", "task.image_size=8", "task.num_channels=1"]
SHARD_FORMATS = ("parquet", "webdataset")
NUM_TEXTS = 700
WANTED = ["river", "morning", "the", "slowly", "market", "children", "walked", "sea"]
OTHERS = ["return", "values[i]", "def", "int", "==", "for", "std::vector", "args"]


def sentences(words: list[str], count: int) -> list[str]:
    """Texts of random words, which differ from each other."""
    generator = np.random.default_rng(len(words[0]))
    return [
        f"{' '.join(generator.choice(words, size=generator.integers(3, 20)))} {number}"
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    texts = [*sentences(WANTED, 50), *sentences(OTHERS, 50)]
    return str(save_language_model(tmp_path_factory.mktemp("model"), texts=texts))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Path:
    """`corpus`: texts, a seventh of them like those of `target`, and an empty one."""
    folder = tmp_path_factory.mktemp("texts")
    wanted = sentences(WANTED, NUM_TEXTS // 7 + 60)
    pool = [*wanted[60:], *sentences(OTHERS, NUM_TEXTS - NUM_TEXTS // 7), ""]
    write_corpus(folder / "shards", [{"text": text} for text in pool])
    ingest([str(folder / "shards")], folder=str(folder / "corpus"), client=client)
    write_texts(folder / "target" / "0.parquet", [(text, "wanted") for text in wanted[:60]])
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vit")
    models = TASK.models(VIT)
    models.save(models.build(0), folder)
    return str(folder)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, client: Client) -> dict[str, str]:
    """Corpora of digits by shard format, and `target`: digits without labels."""
    folder = tmp_path_factory.mktemp("digits")
    rows = samples(1200)
    wanted: list[Sample] = [{"image": row["image"]} for row in rows if row["label"] == 0][:60]
    write_corpus(folder / "target", wanted, num_shards=1)
    for kind in SHARD_FORMATS:
        write_corpus(folder / kind, rows, kind=kind)
        ingest([str(folder / kind)], folder=str(folder / f"{kind}-corpus"), client=client)
    corpora = {kind: str(folder / f"{kind}-corpus") for kind in SHARD_FORMATS}
    return corpora | {"target": str(folder / "target")}


@pytest.fixture(scope="module")
def alone() -> Iterator[Client]:
    """One worker."""
    with connect(ClusterSettings(workers=1)) as connected:
        yield connected


def make(corpus: str, client: Client, name: str, **options: Any) -> pl.DataFrame:
    annotate(corpus, name=name, scheduler=scheduler_address(client), overwrite=True, **options)
    AnnotationStore(corpus).verify(name)
    return AnnotationStore(corpus).scan(name).frame().collect()


def test_a_similarity_is_the_same_for_any_number_of_workers(
    texts: Path, model: str, client: Client, alone: Client
) -> None:
    corpus, target = str(texts / "corpus"), TargetSettings((str(texts / "target"),))
    options: dict[str, Any] = {"kind": "similarity", "model": model, "target": target}
    rows = make(corpus, client, "near", **options)
    record = AnnotationStore(corpus).read("near")
    assert rows.schema["value"] == pl.Float32
    assert record.statuses == {"empty": 1, "ok": NUM_TEXTS}
    assert record.digests.keys() == {"model", "tokenizer", "target", "examples"}
    assert record.units == rows["num_units"].sum() > 0
    assert [entry["share"] for entry in record.enrichment["shares"]] == [0.05, 0.1, 0.2, 0.4]
    make(corpus, alone, "near", **options)
    assert AnnotationStore(corpus).read("near").digest == record.digest


def test_images_are_compared_and_classified_without_labels(
    digits: dict[str, str], vit: str, client: Client
) -> None:
    options: dict[str, Any] = {"model": vit, "target": TargetSettings((digits["target"],))}
    one, other = (
        make(digits[kind], client, "near", kind="similarity", settings=IMAGES, **options)
        for kind in SHARD_FORMATS
    )
    assert one.equals(other)
    settings = [*IMAGES, "features=hidden", "pool_samples=1000"]
    zeros = make(
        digits["parquet"], client, "zeros", kind="classifier", settings=settings, **options
    )
    record = AnnotationStore(digits["parquet"]).read("zeros")
    assert record.enrichment["auc"] > 0.9
    top = zeros.sort("value", descending=True).head(60).select("shard_id", "row").rows()
    labels = [row["label"] for row in samples(1200)]
    wanted = [labels[400 * shard + row] == 0 for shard, row in top]
    assert np.mean(wanted) > 0.5, "a tenth of the corpus are zeros"


def test_losses_of_a_sample_are_extended_by_hidden_states(
    digits: dict[str, str], vit: str, client: Client, alone: Client
) -> None:
    corpus = digits["parquet"]
    options: dict[str, Any] = {"kind": "loss", "model": vit, "settings": IMAGES}
    full = make(corpus, client, "full", **options)
    extension = Extension(sample=0.4, extend="hidden", min_fidelity=-1)
    extended = make(corpus, client, "extended", extension=extension, **options)
    measured = extended["measured"].to_numpy()
    assert 0.3 < measured.mean() < 0.5
    values, losses = extended["value"].to_numpy(), full["value"].to_numpy()
    assert values[measured] == pytest.approx(losses[measured], rel=1e-5)
    record = AnnotationStore(corpus).read("extended")
    assert record.fidelity["extend"] == "hidden"
    assert record.fidelity["num_held_out"] + record.fidelity["num_fitted"] == measured.sum()
    assert record.digests["extend_model"] == record.digests["model"]
    make(corpus, alone, "extended", extension=extension, **options)
    assert AnnotationStore(corpus).read("extended").digest == record.digest


def test_annotations_of_a_run_use_its_model_and_task_and_notice_other_weights(
    texts: Path, model: str, client: Client
) -> None:
    values: dict[str, Any] = {
        "run": str(texts),
        "corpus": {"path": str(texts / "corpus")},
        "target": {"shards": [str(texts / "target")]},
        "annotations": {
            "prior": {"kind": "loss"},
            "similar": {"kind": "similarity"},
            "judged": {"kind": "classifier", "features": "hidden", "pool_samples": 1000},
        },
        "task": {"name": "causal_lm", "text": "text", "max_length": 48},
        "model": {"path": model},
        "selection": {"strategy": "key", "key": "similar"},
    }
    config = run_config.parse(values)
    for entry in config.annotations.values():
        assert entry["model"] == model
        assert entry["task"] == {**values["task"], "tokenizer": model}
    make_annotations(config, cluster=lambda: client)
    store = AnnotationStore(str(texts / "corpus"))
    records = {name: store.read(name) for name in values["annotations"]}
    make_annotations(run_config.parse(values), cluster=lambda: client)
    assert {name: store.read(name) for name in records} == records, "nothing is made again"

    weights = AutoModelForCausalLM.from_pretrained(model)
    before = weights.lm_head.weight.detach().clone()
    torch.nn.init.ones_(weights.lm_head.weight)
    weights.save_pretrained(model)
    try:
        for name, entry in values["annotations"].items():
            one = {"annotations": {name: entry}, "selection": {"strategy": "uniform"}}
            with pytest.raises(InputError, match=rf"{name}: .*digest of the model was \w+, is \w"):
                make_annotations(run_config.parse(values | one), cluster=lambda: client)
    finally:
        with torch.no_grad():
            weights.lm_head.weight.copy_(before)
        weights.save_pretrained(model)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("similarity", ["--target", "TARGET"], "needs the setting model: give --model PATH"),
        ("similarity", ["--model", "MODEL"], "compares with examples of what is wanted"),
        ("similarity", ["--model", "MODEL", "--target", "IMAGES"], "the target has no column"),
        (
            "similarity",
            ["--model", "VIT", "--tokenizer", "MODEL", "--target", "TARGET"],
            "model type 'vit' does not fit the task",
        ),
        (
            "similarity",
            ["--model", "MODEL", "--target", "TARGET", "--set", "reduce=mean"],
            "reduce: expected 'top_k' or 'centroid'",
        ),
        ("classifier", ["--set", "features=hidden", "--target", "TARGET"], "give --model PATH"),
        ("loss", ["--model", "MODEL", "--set", "fit.epochs=0", "--target", "TARGET"], "fit.epochs"),
        (
            "loss",
            ["--model", "MODEL", "--set", "fitting.epochs=1", "--target", "TARGET"],
            "fitting: unknown key, did you mean 'fit'?",
        ),
        (
            "loss",
            ["--model", "MODEL", "--set", "extend_model=MODEL"],
            "extend_model is the model of --extend hidden",
        ),
        (
            "noisy.Noisy",
            ["--sample", "0.5", "--extend", "hidden"],
            "the kind noisy has none: give --extend ngram",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    texts: Path,
    digits: dict[str, str],
    model: str,
    vit: str,
    client: Client,
    kind: str,
    arguments: list[str],
    message: str,
) -> None:
    corpus = texts / "corpus"
    before = sorted(corpus.rglob("*"))
    paths = {"MODEL": model, "VIT": vit, "IMAGES": digits["target"]}
    paths["TARGET"] = str(texts / "target")
    given = [paths.get(argument, argument) for argument in arguments]
    command = ["annotate", str(corpus), "--name", "a", "--kind", kind, *given]
    done = CliRunner().invoke(app, [*command, "--scheduler", scheduler_address(client)])
    assert done.exit_code == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(corpus.rglob("*")) == before
