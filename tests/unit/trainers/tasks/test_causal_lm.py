"""Causal language modelling: which tokens count, what is cut, what a tokenizer must have."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from task_cases import TEXTS

from attent_select.errors import InputError, SampleError
from trainers.hf import load_tokenizer
from trainers.inputs.tokenizer import END, PADDING, train_tokenizer
from trainers.scoring.token_loss import IGNORED
from trainers.tasks.causal_lm import CausalLm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer((text for pair in TEXTS for text in pair), folder, vocab_size=320)
    return folder


def decoded(task: CausalLm, ids: list[int]) -> str:
    return str(load_tokenizer(task.tokenizer).decode(ids))


def test_only_the_response_and_its_end_token_count(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), prompt="p", response="r", template="Q: {prompt} A: ")
    item = task.prepare({"p": "len(s)", "r": "Return the number."}, generator=None)
    assert decoded(task, item["input_ids"]) == f"Q: len(s) A: Return the number.{END}"
    counted = [label for label in item["labels"] if label != IGNORED]
    assert decoded(task, counted) == f"Return the number.{END}"
    assert item["num_units"] == len(item["input_ids"])
    assert not item["truncated"]


def test_all_tokens_of_a_text_count_except_the_first(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), text="t")
    item = task.prepare({"t": "Return the sum"}, generator=None)
    assert item["labels"] == item["input_ids"]
    batch = task.collate([item])
    assert int((batch["labels"][:, 1:] != IGNORED).sum()) == len(item["input_ids"]) - 1


def test_a_long_sample_is_truncated_at_its_end_and_marked(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), prompt="p", response="r", max_length=12)
    item = task.prepare({"p": "len(s)", "r": "Return the number. " * 9}, generator=None)
    assert len(item["input_ids"]) == 12
    assert item["truncated"]
    assert task.collate([item])["truncated"].tolist() == [True]
    with pytest.raises(SampleError, match="none of the first 12 tokens counts") as caught:
        task.prepare({"p": "a much longer prompt than that" * 3, "r": "x"}, generator=None)
    assert caught.value.status == "empty"


def test_a_response_of_which_one_token_fits_is_not_too_long(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), prompt="p", response="r", template="{prompt}")
    prompt = task.prepare({"p": "len(s)", "r": "x"}, generator=None)["labels"].count(IGNORED)
    tight = CausalLm(
        tokenizer=str(folder), prompt="p", response="r", template="{prompt}", max_length=prompt + 1
    )
    item = tight.prepare({"p": "len(s)", "r": "xyz"}, generator=None)
    assert [label != IGNORED for label in item["labels"]] == [False] * prompt + [True]
    tighter = CausalLm(
        tokenizer=str(folder), prompt="p", response="r", template="{prompt}", max_length=prompt
    )
    with pytest.raises(SampleError, match="tokens counts"):
        tighter.prepare({"p": "len(s)", "r": "xyz"}, generator=None)


def test_padding_is_on_the_right_masked_and_never_counted(folder: Path) -> None:
    task = CausalLm(tokenizer=str(folder), text="t")
    items = [task.prepare({"t": text}, generator=None) for text in ("a", "a longer text")]
    batch = task.collate(items)
    length = len(items[0]["input_ids"])
    assert batch["attention_mask"][0].tolist() == [1] * length + [0] * (
        batch["input_ids"].shape[1] - length
    )
    assert (batch["labels"][0, length:] == IGNORED).all()
    padding = load_tokenizer(str(folder)).pad_token_id
    assert (batch["input_ids"][0, length:] == padding).all()


def changed(folder: Path, to: Path, **config: Any) -> CausalLm:
    to.mkdir()
    (to / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    known = json.loads((folder / "tokenizer_config.json").read_text()) | config
    known = {name: value for name, value in known.items() if value is not None}
    (to / "tokenizer_config.json").write_text(json.dumps(known))
    return CausalLm(tokenizer=str(to), text="t")


def test_without_a_padding_token_the_end_token_pads(folder: Path, tmp_path: Path) -> None:
    task = changed(folder, tmp_path / "no-pad", pad_token=None)
    items = [task.prepare({"t": text}, generator=None) for text in ("a", "a longer text")]
    tokenizer = load_tokenizer(task.tokenizer)
    assert tokenizer.pad_token_id is None
    assert task.collate(items)["input_ids"][0, -1] == tokenizer.eos_token_id


def test_a_tokenizer_without_padding_and_end_token_is_refused(folder: Path, tmp_path: Path) -> None:
    task = changed(folder, tmp_path / "neither", pad_token=None, eos_token=None)
    item = task.prepare({"t": "some text"}, generator=None)
    with pytest.raises(InputError, match=r"neither a pad nor an eos token.*tokenizer_config\.json"):
        task.collate([item])
    with pytest.raises(SampleError, match="no context to be predicted"):
        task.prepare({"t": "x"}, generator=None)


def test_a_start_token_comes_first_and_does_not_count(folder: Path, tmp_path: Path) -> None:
    task = changed(folder, tmp_path / "bos", bos_token=PADDING)
    item = task.prepare({"t": "Return"}, generator=None)
    assert item["input_ids"][0] == load_tokenizer(task.tokenizer).bos_token_id
    assert item["labels"][0] == IGNORED


def test_a_missing_tokenizer_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    task = CausalLm(tokenizer=str(tmp_path / "nowhere"), text="t")
    with pytest.raises(InputError, match="nowhere"):
        task.prepare({"t": "text"}, generator=None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "set exactly one of"),
        ({"text": "t", "prompt": "p", "response": "r"}, "set exactly one of"),
        ({"prompt": "p"}, "set exactly one of"),
        ({"text": "t", "template": "no place"}, "template"),
        ({"text": "t", "max_length": 1}, "max_length"),
    ],
)
def test_inconsistent_task_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CausalLm(tokenizer="anywhere", **wrong)


def test_perplexity_is_the_exponential_of_the_loss_per_token(folder: Path) -> None:
    from task_cases import LLAMA

    task = CausalLm(tokenizer=str(folder), text="t", max_length=128)
    model = task.models({"config": {**LLAMA["config"], "vocab_size": 320}}).build(1)
    batch = task.collate([task.prepare({"t": text}, generator=None) for _, text in TEXTS])
    found = task.evaluate(model, [batch])
    assert 0 <= found["accuracy"] < 0.5
    assert found["perplexity"] == pytest.approx(torch.tensor(found["eval_loss"]).exp().item())
    with pytest.raises(InputError, match="held-out"):
        task.evaluate(model, [])


def test_a_max_length_beyond_the_model_s_positions_is_refused(folder: Path, tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 320}
    settings = {"config": {**config, "n_positions": 64}}
    fits, too_long = (
        CausalLm(tokenizer=str(folder), text="t", max_length=length).models(settings)
        for length in (64, 65)
    )
    fits.save(fits.build(1), tmp_path)
    for build in (lambda: too_long.build(1), lambda: too_long.load(tmp_path)):
        with pytest.raises(InputError, match=r"set task\.max_length to at most 64"):
            build()


def test_training_a_tokenizer_twice_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    train_tokenizer((text for pair in TEXTS for text in pair), tmp_path, vocab_size=320)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_trained_tokenizer_round_trips_every_text(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    for text in ("漢字 🙂 ß", "\t tabs\n and  spaces ", "def f(x): ..."):
        assert tokenizer.decode(tokenizer.backend_tokenizer.encode(text).ids) == text


def test_a_vocabulary_too_small_for_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 258"):
        train_tokenizer(["text"], tmp_path, vocab_size=200)
