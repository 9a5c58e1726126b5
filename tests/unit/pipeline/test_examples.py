"""The example configurations are valid once their shards exist."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from task_cases import LLAMA

from attent_select.errors import InputError
from catalogs.formats.parquet import Parquet
from pipeline.config import run_config
from trainers.hf import HuggingFaceModels, lora, save_preprocessing
from trainers.inputs.tokenizer import train_tokenizer

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model with its tokenizer, and a shard."""
    folder = tmp_path_factory.mktemp("base")
    train_tokenizer(["some words"], folder / "tokenizer", vocab_size=300)
    models = HuggingFaceModels(
        "AutoModelForCausalLM", {"config": LLAMA["config"] | {"max_position_embeddings": 1024}}
    )
    models.save(models.build(1), folder)
    save_preprocessing(str(folder / "tokenizer"), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    # The columns of all examples.
    names = ("text", "question", "answer", "instruction", "input", "output", "category")
    pairs = ("chosen", "rejected")
    images = ("image", "label", "mask", "png", "cls", "distance", "depth")
    Parquet().write(folder / "shard.parquet", [dict.fromkeys((*names, *pairs, *images), "x")])
    return folder


def values_of(example: Path, base: Path, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(example.read_text())
    values["run"] = str(folder / "run")
    for section in ("corpus", "evaluation", "target"):
        if section in values:
            values[section] = {"shards": [str(base / "shard.parquet")]}
    if "tokenizer" in values["task"]:
        values["task"]["tokenizer"] = str(base)
    if "path" in values["model"]:
        is_text = "tokenizer" in values["task"]
        values["model"] |= {"path": str(base)} if is_text else {"config": {"model_type": "vit"}}
        if not is_text:
            del values["model"]["path"]
    return values


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_unchanged_by_freezing(
    example: Path, base: Path, tmp_path: Path
) -> None:
    parsed = run_config.parse(values_of(example, base, tmp_path))
    run_config.freeze(parsed)
    assert run_config.load(parsed.run) == parsed


def changed_values(
    example: str, base: Path, folder: Path, section: str, **replaced: Any
) -> dict[str, Any]:
    (path,) = (path for path in EXAMPLES if path.stem == example)
    values = values_of(path, base, folder)
    values[section] |= replaced
    return values


@pytest.mark.parametrize(
    ("section", "replaced", "line"),
    [
        ("model", {"lora": {"targets": ["query"]}}, r"model\.lora: .*query.*layers of the model"),
        ("model", {"lora": {"ranks": 3}}, r"model\.lora has unknown settings ranks"),
        (
            "model",
            {"path": "nowhere/at/all"},
            r"model\.path is .*no such folder",
        ),
        (
            "task",
            {"tokenizer": "nowhere/at/all"},
            r"task\.tokenizer is .*no such folder",
        ),
        ("task", {"max_length": 2000}, r"model: .*set task\.max_length to at most 1024"),
        ("task", {"template": "no field"}, "task.*template is 'no field'"),
    ],
)
def test_an_error_about_a_model_or_tokenizer_is_one_line_before_the_run_starts(
    base: Path, tmp_path: Path, section: str, replaced: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match=line) as caught:
        run_config.parse(changed_values("gsm8k_lora", base, tmp_path, section, **replaced))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "base_name"),
    [('{"base_model_name_or_path": "/gone/base"}', "/gone/base"), ("[]", "an unnamed model")],
)
def test_the_folder_of_an_adapter_is_not_a_model(
    base: Path, tmp_path: Path, content: str, base_name: str
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text(content)
    values = changed_values("gsm8k_lora", base, tmp_path, "model", path=str(tmp_path / "adapter"))
    with pytest.raises(InputError, match=rf"it holds an adapter of {base_name}, without its base"):
        run_config.parse(values)


def test_four_bit_quantization_without_bitsandbytes_is_one_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "is_bitsandbytes_available", lambda: False)
    values = changed_values("gsm8k_lora", base, tmp_path, "model", lora={"quantize": "4bit"})
    with pytest.raises(InputError, match=r"install attent-select\[quantize\], or set base_dtype"):
        run_config.parse(values)


def test_a_model_type_that_does_not_fit_the_task_is_one_line(base: Path, tmp_path: Path) -> None:
    wrong = changed_values(
        "nuclei_segmentation", base, tmp_path, "model", config={"model_type": "llama"}
    )
    with pytest.raises(InputError, match="model: model type 'llama' does not fit the task"):
        run_config.parse(wrong)


def test_several_modalities_stay_a_list_after_freezing(base: Path, tmp_path: Path) -> None:
    values = changed_values("fashion_mae", base, tmp_path, "task", image=["image", "depth"])
    values["model"] = {
        "config": {
            "model_type": "multi_mae",
            "image_size": 28,
            "patch_size": 7,
            "num_modalities": 2,
            "num_channels": 1,
        }
    }
    parsed = run_config.parse(values)
    assert parsed.task.task.columns == ("image", "depth")
    run_config.freeze(parsed)
    assert run_config.load(parsed.run) == parsed
