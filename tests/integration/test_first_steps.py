"""attent init, attent examples and attent schema: a first configuration that works."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from commands import answer, answer_here, attent
from digits import png, samples
from task_cases import TEXTS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from catalogs.formats.parquet import Parquet
from catalogs.formats.webdataset import Webdataset
from catalogs.shard_format import Sample
from pipeline.config import run_config
from pipeline.config.annotation_kinds import load_kind
from pipeline.config.automatic_annotations import automatic_annotations
from trainers.inputs.tokenizer import train_tokenizer
from trainers.tasks.causal_lm import CausalLm

CHATS = [
    {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
    for a, b in TEXTS
]
TEXT_ROWS: dict[str, list[Sample]] = {
    "text": [{"id": i, "title": "short", "text": b} for i, (_, b) in enumerate(TEXTS)],
    "prompts": [{"Instruction": a, "output": b} for a, b in TEXTS],
    "preferences": [{"prompt": a, "chosen": b, "rejected": b[:-1]} for a, b in TEXTS[:6]],
}
# Three classes, and pixels that do not count.
MASK = np.array([[0, 1, 2, 255]] * 8, np.uint8).repeat(2, axis=1)
COLUMNS = {
    "text": {"text": "text"},
    "prompts": {"prompt": "Instruction", "response": "output"},
    "preferences": {"chosen": "chosen", "rejected": "rejected", "prompt": "prompt"},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([text for pair in TEXTS for text in pair], folder, vocab_size=300)
    return folder


def new_config(folder: Path, *options: object) -> dict[str, Any]:
    """The configuration that `attent init` writes, which `attent doctor` finds right."""
    path = folder / "new" / "my.yaml"
    assert answer_here("init", path, "--run", folder / "run", *options)["path"] == str(path)
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    schema = json.loads((path.parent / "attent.schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(values)
    assert answer_here("doctor", path)["ok"]
    return values


def shard_of(folder: Path, rows: list[Sample]) -> Path:
    Parquet().write(folder / "shard.parquet", rows)
    return folder / "shard.parquet"


@pytest.mark.parametrize("kind", TEXT_ROWS)
def test_the_columns_of_text_suggest_a_task(tmp_path: Path, tokenizer: Path, kind: str) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS[kind])
    values = new_config(tmp_path, "--shards", shard, "--tokenizer", tokenizer)
    assert values["task"].items() >= COLUMNS[kind].items()
    assert values["task"]["name"] == ("preference_pairs" if kind == "preferences" else "causal_lm")
    assert values["model"]["config"]["vocab_size"] == 300
    # Without examples no rule is better than random rows.
    dropped = {"distinct": "duplicates"} if kind == "text" else {}
    assert values["selection"] == {"strategy": "uniform", **dropped}
    assert values["task"].get("packing", False) == (kind != "text")


def test_the_first_answers_are_not_truncated(tmp_path: Path, tokenizer: Path) -> None:
    rows = [{"prompt": "Count.", "response": "1 2 3 " * length} for length in [*[9] * 48, 250]]
    shard = shard_of(tmp_path, rows)
    values = new_config(tmp_path, "--shards", shard, "--tokenizer", tokenizer)
    assert values["model"]["config"]["max_position_embeddings"] == values["task"]["max_length"]
    longest = CausalLm(
        tokenizer=str(tokenizer), prompt="prompt", response="response", max_length=10_000
    ).prepare(rows[-1], generator=None)
    assert 512 < len(longest["input_ids"]) <= values["task"]["max_length"]
    # The same rows for a model with fewer positions.
    config = {**values["model"]["config"], "max_position_embeddings": 640}
    model_type = config.pop("model_type")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    answer_here("init", tmp_path / "b.yaml", "--shards", shard, "--model", tmp_path / "model")
    assert yaml.safe_load((tmp_path / "b.yaml").read_text())["task"]["max_length"] == 640


@pytest.mark.parametrize("further", ["input", "context"])
def test_a_column_beside_the_prompt_is_in_the_template(
    tmp_path: Path, tokenizer: Path, further: str
) -> None:
    row = {"instruction": "Add.", further: "1 and 2", "output": "3", "id": "a"}
    shard = shard_of(tmp_path, [row] * 4)
    task = new_config(tmp_path, "--shards", shard, "--tokenizer", tokenizer)["task"]
    assert task["template"] == f"{{prompt}}\n{{{further}}}\n"
    text = (tmp_path / "new/my.yaml").read_text()
    assert f"Suggested by the columns {further}, instruction, output; not read: id." in text


def test_text_without_a_model_gets_a_tokenizer_of_its_first_rows(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS["prompts"])
    values = new_config(tmp_path, "--shards", shard)
    folder = tmp_path / "new/my-tokenizer"
    assert values["task"]["tokenizer"] == str(folder)
    assert f"trained on the first {len(TEXTS)} rows" in (tmp_path / "new/my.yaml").read_text()
    written = folder / "tokenizer.json"
    expected = written.read_bytes()
    prompts, responses = zip(*TEXTS, strict=True)
    train_tokenizer([*prompts, *responses], folder, vocab_size=4096)
    assert written.read_bytes() == expected


def test_a_tokenizer_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS["text"])
    (tmp_path / "my-tokenizer").mkdir()
    done = attent("init", tmp_path / "my.yaml", "--shards", shard)
    assert done.returncode == 2
    assert f"my-tokenizer exists: use it with --tokenizer {tmp_path}" in done.stderr
    assert not list((tmp_path / "my-tokenizer").iterdir())
    (tmp_path / "my.yaml").write_text("run: mine\n")
    (tmp_path / "my-tokenizer").rmdir()
    done = attent("init", tmp_path / "my.yaml", "--shards", shard)
    assert "my.yaml exists: move it away" in done.stderr
    assert not (tmp_path / "my-tokenizer").exists()


def test_examples_of_what_is_wanted_select_by_relevance(tmp_path: Path, tokenizer: Path) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS["text"])
    values = new_config(tmp_path, "--shards", shard, "--target", shard, "--tokenizer", tokenizer)
    assert values["selection"] == {"strategy": "key", "key": "relevance"}
    assert values["target"] == {"shards": [str(shard)]}
    assert values["annotations"] == {"relevance": {"kind": "ngram", "text": "text"}}


@pytest.mark.parametrize(
    ("names", "learned", "annotation"),
    [(["content"], "content", "relevance"), (["question", "answer"], "answer", "quality")],
)
def test_annotations_read_the_column_that_is_learned(
    tmp_path: Path, tokenizer: Path, names: list[str], learned: str, annotation: str
) -> None:
    texts = [row["text"] for row in TEXT_ROWS["text"]]
    shard = shard_of(tmp_path, [dict.fromkeys(names, text) for text in texts])
    options = ("--shards", shard, "--tokenizer", tokenizer)
    values = new_config(tmp_path, *options, "--target", shard)
    assert values["annotations"][annotation]["text"] == learned
    (tmp_path / "target").mkdir()
    other = shard_of(tmp_path / "target", [{"body": text} for text in texts])
    answer_here("init", tmp_path / "mine.yaml", *options, "--target", other)
    done = attent("doctor", tmp_path / "mine.yaml")
    assert done.returncode == 2
    problem = f"annotations.{annotation}.text: {other} has no column {learned}; it has body"
    assert problem in " ".join(done.stdout.split())


def test_equal_answers_to_different_prompts_are_not_duplicates(
    tmp_path: Path, tokenizer: Path
) -> None:
    rows = [{"prompt": text, "response": "Yes."} for text, _ in TEXTS]
    shard = shard_of(tmp_path, [*rows, rows[0]])
    new_config(tmp_path, "--shards", shard, "--tokenizer", tokenizer)
    config = run_config.load(
        str(tmp_path / "new/my.yaml"), overrides=["selection.distinct=duplicates"]
    )
    made = {**config.annotations, **automatic_annotations(config)}["duplicates"]
    assert made == {"kind": "duplicates", "column": ["prompt", "response"]}


@pytest.mark.parametrize("option", ["--target", "--evaluation"])
def test_examples_that_do_not_exist_are_refused(
    tmp_path: Path, tokenizer: Path, option: str
) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS["text"])
    path, missing = tmp_path / "my.yaml", tmp_path / "none.parquet"
    done = attent("init", path, "--shards", shard, "--tokenizer", tokenizer, option, missing)
    assert done.returncode == 2
    assert f"{option}: nothing found at {missing}" in done.stderr
    assert not path.exists()


def test_images_with_labels_in_a_tar_are_classified(tmp_path: Path) -> None:
    rows = [{"png": each["image"], "cls": each["label"]} for each in samples(12)]
    Webdataset().write(tmp_path / "shard.tar", rows)
    values = new_config(tmp_path, "--shards", tmp_path / "*.tar")
    assert values["task"] == {
        "name": "image_classification",
        "image": "png",
        "label": "cls",
        "image_size": 8,
        "num_channels": 1,
    }
    assert values["model"]["config"]["num_labels"] == 1 + max(row["cls"] for row in rows)
    assert values["selection"] == {"strategy": "soft", "clip_high": 0.95, "max_visits": 2}
    assert values["schedule"]["rescore"] == {"kind": "observed"}


def test_a_curated_corpus_is_trained_on_as_a_whole(tmp_path: Path, tokenizer: Path) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS["text"])
    values = new_config(tmp_path, "--shards", shard, "--tokenizer", tokenizer, "--curated")
    assert values["selection"] == {"strategy": "uniform"}
    assert values["schedule"]["ratio"] == {"kind": "fixed", "start": 1.0}
    assert values["task"]["packing"] is True


def test_doctor_says_what_pays_on_such_a_corpus(tmp_path: Path, tokenizer: Path) -> None:
    shard = shard_of(tmp_path, TEXT_ROWS["text"])
    options = ("--shards", shard, "--target", shard, "--tokenizer", tokenizer)
    answer_here("init", tmp_path / "my.yaml", "--run", tmp_path / "run", *options)
    findings = answer_here("doctor", tmp_path / "my.yaml")["findings"]
    details = {each["name"]: each["detail"] for each in findings}
    assert re.match(r"1 shard, [\d.]+ kB, ", details["shards"])
    assert "once they are made, this command says what selecting by them" in details["annotations"]
    advice = details["advice"]
    assert advice.startswith(
        "For raw text, with examples of what is wanted, use the samples most like the examples"
    )
    assert "`attent pilot`" in advice


def test_images_with_maps_are_segmented_and_alone_reconstructed(tmp_path: Path) -> None:
    images = [each["image"] for each in samples(8)]
    rows = [{"picture": image, "mask": png(MASK)} for image in images]
    rows[0]["mask"] = png(np.full_like(MASK, 255))
    shard = shard_of(tmp_path, rows)
    found = answer_here("init", tmp_path / "maps.yaml", "--shards", shard)
    values = yaml.safe_load(Path(found["path"]).read_text())
    assert values["task"]["name"] == "semantic_segmentation"
    assert values["task"]["image"] == "picture"
    assert values["model"]["config"]["num_labels"] == 3
    alone = ("--shards", shard, "--task", "masked_image_modeling", "--target", shard)
    values = new_config(tmp_path, *alone)
    assert values["model"]["config"]["model_type"] == "vit_mae"
    assert values["selection"]["strategy"] == "soft", "examples of images judge, but did not help"
    assert values["target"] == {"shards": [str(shard)]}


def test_chats_need_a_model_with_a_template(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, CHATS)
    found = answer_here("init", tmp_path / "my.yaml", "--shards", shard, "--model", "org/name")
    values = yaml.safe_load(Path(found["path"]).read_text())
    learned = {"name": "causal_lm", "messages": "messages"}
    assert values["task"] == {**learned, "max_length": 512, "packing": True}
    assert values["model"] == {"path": "org/name"}
    assert values["selection"] == {"strategy": "uniform"}
    wanted = ("--shards", shard, "--model", "org/name", "--target", shard)
    found = answer_here("init", tmp_path / "target/my.yaml", *wanted)
    values = yaml.safe_load(Path(found["path"]).read_text())
    assert values["annotations"] == {"quality": {"kind": "classifier", "text": "messages"}}
    load_kind("classifier", {"text": "messages"})  # accepts the setting
    assert values["schedule"]["ratio"] == {"kind": "fixed", "start": 0.5}


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (CHATS, [], "chats need a chat template: add --model with a folder, or a name on the hub"),
        (TEXT_ROWS["text"], ["--task", "image_classification"], "not what the task image_class"),
        (TEXT_ROWS["text"], ["--task", "classify"], "--task classify: expected one of"),
        ([{"id": 1}], [], "has the columns id: not what any task reads"),
    ],
)
def test_what_cannot_be_suggested_is_one_line(
    tmp_path: Path, rows: list[Sample], options: list[str], message: str
) -> None:
    shard = shard_of(tmp_path, rows)
    done = attent("init", tmp_path / "my.yaml", "--shards", shard, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "my.yaml").exists()


def test_without_shards_a_program_is_told_the_option(tmp_path: Path) -> None:
    done = attent("init", tmp_path / "my.yaml")
    assert (done.returncode, done.stderr) == (2, "attent: --shards is missing\n")


def test_an_example_is_written_once_with_the_schema_beside_it(tmp_path: Path) -> None:
    assert "raw_text" in answer("examples")["examples"]
    assert answer("examples", "raw_text", "--out", tmp_path) == {
        "path": str(tmp_path / "raw_text.yaml")
    }
    assert json.loads((tmp_path / "attent.schema.json").read_text()) == answer("schema")
    again = attent("examples", "raw_text", "--out", tmp_path)
    assert again.returncode == 2
    assert "exists" in again.stderr
    unknown = attent("examples", "raw_txt")
    assert "did you mean 'raw_text'?" in unknown.stderr
