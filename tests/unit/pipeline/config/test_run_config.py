"""The configuration: what is refused, in which words; overrides; freezing."""

import copy
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from attent_select.errors import InputError, MissingError
from catalogs.formats.parquet import Parquet
from pipeline import stages
from pipeline.config import credentials, run_config
from pipeline.config.yaml_values import parse_yaml
from trainers.hf import model_store
from trainers.inputs.tokenizer import train_tokenizer

TEXT = """
corpus: {shards: [SHARDS/*.parquet]}
task: {name: image_classification, image_size: 8, num_channels: 1}
model: {config: {model_type: vit, image_size: 8, patch_size: 4, num_channels: 1}}
selection: {strategy: soft, temperature: 0.5, where: num_units > 0}
schedule: {epochs: 3, warmup_epochs: 1, ratio: {start: 0.3}}
training: {batch_size: 64}
"""


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """A sound configuration of a run over one shard of one image."""
    image = io.BytesIO()
    Image.new("L", (8, 8)).save(image, format="PNG")
    (tmp_path / "shards").mkdir()
    shard = tmp_path / "shards" / "0.parquet"
    sample = {"image": image.getvalue(), "label": 3, "source": "web", "t": "text"}
    Parquet().write(shard, [sample])
    text = TEXT.replace("SHARDS", str(tmp_path / "shards"))
    return {"run": str(tmp_path / "run"), **yaml.safe_load(text)}


def replaced(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `values` with one key replaced."""
    result = copy.deepcopy(values)
    *sections, key = path.split(".")
    section = result
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    return result


PROBLEMS = [
    ("schedule.ratoi", 3, "schedule.ratoi: unknown key, did you mean 'ratio'?"),
    ("scheduel", {}, "scheduel: unknown key, did you mean 'schedule'?"),
    ("task.imagesize", 9, "task.imagesize: unknown key, did you mean 'image_size'?"),
    ("selection.temprature", 2, "selection.temprature: unknown key, did you mean 'temperature'?"),
    ("selection.whre", "x", "selection.whre: unknown key, did you mean 'where'?"),
    ("training.xyz", 2, "training.xyz: unknown key, known here: arguments, average, batch_size"),
    ("schedule.ratio.start", 1.4, "schedule.ratio.start: 1.4 is outside (0, 1]"),
    ("schedule.ratio.start", 0, "schedule.ratio.start: 0.0 is outside (0, 1]"),
    ("schedule.ratio.kind", "cosin", "schedule.ratio.kind: expected 'fixed', 'cosine', "),
    (
        "schedule.ratio",
        {"kind": "adaptive", "start": 0.5, "low": 0.7},
        "schedule.ratio.start: 0.5 ",
    ),
    ("schedule.ratio.low", 0.1, "schedule.ratio.low: only used by kind adaptive"),
    ("schedule.rescore", {"kind": "partial"}, "schedule.rescore.share: required for kind partial"),
    (
        "schedule.rescore",
        {"share": 0.1},
        "schedule.rescore.share: not used by full; expected kind p",
    ),
    (
        "schedule.rescore.kind",
        "half",
        "schedule.rescore.kind: expected 'full', 'partial', 'none', ",
    ),
    ("schedule.rescore", {"kind": "auto", "share": 2}, "schedule.rescore.share: 2.0 is outside"),
    ("schedule.rescore.by", "age", "schedule.rescore.by: expected 'staleness' or 'threshold'"),
    (
        "schedule",
        {"budget": {"samples": 8}, "pool": {"multiple": "some"}},
        "schedule.pool.multiple: expected a valid number or 'auto', found 'some'",
    ),
    (
        "schedule",
        {"budget": {"samples": 8}, "pool": {"block_rows": 2.5}},
        "schedule.pool.block_rows: expected a valid integer or 'row_group', found 2.5",
    ),
    ("schedule.rescor", {}, "schedule.rescor: unknown key, did you mean 'rescore'?"),
    ("schedule.rescore.shar", 0.1, "schedule.rescore.shar: unknown key, did you mean 'share'?"),
    ("schedule.warmup_epochs", 9, "schedule.epochs: 3 is less than warmup_epochs (9) + "),
    ("schedule.epochs", "x", "schedule.epochs: expected a valid integer"),
    ("schedule.interval.epochs", 0, "schedule.interval.epochs: 0 is less than 1"),
    ("schedule", None, "schedule: expected"),
    ("seed", -1, "seed: expected greater than or equal to 0, found -1"),
    ("training.batch_size", 0, "training.batch_size is 0"),
    ("selection.temperature", -1, "selection.temperature: -1.0 is not a finite positive number"),
    ("selection.strategy", "sof", "selection.strategy: unknown plug-in 'sof'"),
    ("selection.explor", 0.1, "selection.explor: unknown key, did you mean 'explore'?"),
    ("selection.explore", 1.5, "selection.explore: 1.5 is outside [0, 1]"),
    ("selection.quotas", "equal", "selection.quotas: also set `by`"),
    (
        "selection.by",
        "sauce",
        "selection.by: unknown column 'sauce', did you mean source?",
    ),
    (
        "selection.where",
        "nun_units > 3",
        "selection.where: unknown column 'nun_units', did you mean num_units?",
    ),
    ("task.name", "x", "task.name: unknown plug-in 'x'"),
    ("task.name", 3, "task.name: is missing or is not a name"),
    ("model", {}, "model: the model needs `path`, or `config`"),
    ("schedule.epochs", "10", "schedule.epochs: expected a whole number, found '10'"),
    ("schedule.epochs", 4.0, "schedule.epochs: expected a whole number, found 4.0"),
    ("schedule.epochs", True, "schedule.epochs: "),
    ("seed", True, "seed: expected a whole number, found True"),
    ("schedule.ratio.start", True, "schedule.ratio.start: expected a number, found True"),
    ("schedule.ratio.start", "0.5", "schedule.ratio.start: expected a number, found '0.5'"),
    ("selection.temperature", True, "selection.temperature: expected a number, found True"),
    ("selection.reference", "yes", "selection.reference: expected true or false, found 'yes'"),
    ("selection.explore", True, "selection.explore: expected a number, found True"),
    ("task.image_size", "8", "task.image_size: expected a whole number, found '8'"),
    ("task.resize", "squash", "task.resize: expected 'stretch', 'crop' or 'pad', found 'squash'"),
    ("task.transform", "nowhere.shift", "task: cannot load nowhere.shift: ModuleNotFoundError"),
    ("task.augment", "yes", "task.augment: expected true or false, found 'yes'"),
    ("task.augment", {"flip": 2}, "task.augment.flip is 2.0: expected a probability, 0 to 1"),
    ("task.augment", {"flipp": 1}, "task.augment.flipp: unknown key, did you mean 'flip'?"),
    (
        "task.augment",
        {"random_resized_crop": {"scale": [0.5, 0.1]}},
        "task.augment.random_resized_crop.scale is [0.5, 0.1]: expected two numbers in (0, 1]",
    ),
    (
        "task.augment",
        {"rand_augment": {"magnitude": 31}},
        "task.augment.rand_augment.magnitude is 31.0: expected 0 to 30",
    ),
    ("task.patches", {"keep": 0}, "task.patches.keep is 0.0: expected a share, above 0 and at"),
    ("task.patches", {"until": 2}, "task.patches.until is 2.0: expected a share, above 0 and at"),
    ("task.patches", {"share": 0.5}, "task.patches.share: unknown key"),
    ("task.patches", 0.5, "task.patches: "),
    ("training.batch_size", "8", "training.batch_size: expected a whole number, found '8'"),
    ("scoring.span_samples", "8", "scoring.span_samples: expected a whole number, found '8'"),
    ("model.config.model_type", "nope", "model.config: the model cannot be built: "),
    ("model.config.hidden_size", "abc", "model.config: the model cannot be built: "),
    ("model.config.hidden_sizes", 8, "model.config: vit has no field 'hidden_sizes'; did you"),
    ("model", {"path": "/nowhere/model"}, "model.path is /nowhere/model: there is no such folder"),
    ("training.learning_rate", float("nan"), "training.learning_rate is nan: expected a posit"),
    ("training.learning_rate", 0, "training.learning_rate is 0.0: expected a positive number"),
    ("training.weight_decay", -1, "training.weight_decay is -1.0: expected 0 (off) or more"),
    ("training.max_grad_norm", float("inf"), "training.max_grad_norm is inf: expected 0 (off)"),
    ("training.warmup_steps", -5, "training.warmup_steps is -5: expected 0 (off) or more"),
    ("training.torch_threads", 0, "training.torch_threads is 0: expected 1 to 4096"),
    ("training.micro_batch_units", 0, "training.micro_batch_units is 0: expected 1 to "),
    ("training.average", "tokens", "training.average is tokens: the task ImageClassification has"),
    ("training.average", "words", "training.average: expected 'tokens' or 'samples', found 'wor"),
    ("task.packing", True, "task.packing: unknown key, known here: "),
    ("training.lr_scheduler", "nope", "training.lr_scheduler is 'nope': expected one of linear"),
    ("training.arguments.optim", "nope", "training.arguments: transformers refuses them"),
    ("training.arguments.optim", "lomo", "training.arguments.optim is lomo: You need to install"),
    ("training.arguments.report_to", "clearml", "training.arguments.report_to: the package of cle"),
    ("training.arguments.report_to", "flyte", "training.arguments.report_to: the package of flyt"),
    ("training.arguments.report_to", ["x"], "training.arguments.report_to: 'x' is unknown: expec"),
    ("training.arguments.report_to", "tensorboard", "training.arguments.report_to: tensorboard n"),
    ("training.arguments.use_liger_kernel", True, "training.arguments.use_liger_kernel: liger-ke"),
    ("model.attn_implementation", "fast", "model: the model cannot be built: "),
    ("model.torch_dtype", "int8", "model.torch_dtype is 'int8': expected one of float32"),
    ("run", "foo://bar", "run: foo://bar/run.yaml is not a URL"),
    ("cluster.memory_limit", "lots", "cluster.memory_limit: invalid memory limit 'lots'"),
    ("cluster.memory_limit", "-1", "cluster.memory_limit: memory limit must not be neg"),
    ("corpus.shards", [], "corpus.shards: "),
    ("corpus.shards", "/x", "corpus.shards: expected a valid list, found '/x'"),
    ("corpus.shards", ["/nowhere/*.parquet"], "corpus.shards: nothing found at /nowhere/*.parquet"),
    ("evaluation.shards", ["/nowhere/x"], "evaluation.shards: nothing found at /nowhere/x"),
    ("corpus.shards", ["gopher://x/y"], "corpus.shards: gopher://x/y is not a URL"),
    ("cluster.scheduler", "dask", "cluster.scheduler: expected `local`, an address"),
    ("cluster.workers", 0, "cluster.workers: expected greater than or equal to 1, found 0"),
    ("scoring.carry.source", "int", "scoring.carry.source: expected string, integer"),
    ("scoring.carry", {"row": "integer"}, "annotations.row: annotation 'row': expected a name"),
    ("training.arguments.hub_token", "x", "training.arguments.hub_token: looks like a credential"),
    ("corpus.shards", ["s3://key:secret@bucket/x"], "corpus.shards: the URL holds a credential"),
]


@pytest.mark.parametrize(("path", "value", "expected"), PROBLEMS)
def test_each_problem_is_one_line_with_the_key_s_path(
    values: dict[str, Any], path: str, value: Any, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        run_config.parse(replaced(values, path, value), source="c.yaml")
    assert str(caught.value).startswith(f"c.yaml: {expected}")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_numbers_may_have_an_exponent_without_a_point(values: dict[str, Any]) -> None:
    written = "{batch_size: 64, learning_rate: 1e-3, weight_decay: 0, max_grad_norm: 1.0e+0}"
    parsed = run_config.parse(replaced(values, "training", yaml.safe_load(written)))
    assert (parsed.training.learning_rate, parsed.training.weight_decay) == (0.001, 0.0)


def test_several_problems_are_reported_together(values: dict[str, Any]) -> None:
    wrong = replaced(replaced(values, "sede", 1), "schedule.ratio.start", 2)
    with pytest.raises(InputError) as caught:
        run_config.parse(wrong, source="c.yaml")
    head, *lines = str(caught.value).splitlines()
    assert head == "c.yaml: 2 problems"
    assert sorted(line.strip().split(":")[0] for line in lines) == ["schedule.ratio.start", "sede"]


def test_a_missing_section_is_named(values: dict[str, Any]) -> None:
    del values["corpus"]
    with pytest.raises(InputError, match="corpus: is missing"):
        run_config.parse(values)


@pytest.mark.parametrize(
    "url",
    [
        "https://b.example/x?X-Goog-Signature=hunter2",
        "https://b.example/x?a=1&access_token=hunter2",
        "https://b.example/x?api_key=hunter2",
        "https://hunter2@b.example/x",
        "s3://key:hunter2@b/x",
        "https://b.example/x?sv=1&sig=hunter2",
        "https://b.example/x?AWSAccessKeyId=hunter2",
    ],
)
def test_a_url_with_a_credential_is_refused_everywhere(values: dict[str, Any], url: str) -> None:
    doors = (
        lambda: run_config.parse(replaced(values, "corpus.shards", [url])),
        lambda: run_config.parse(replaced(values, "run", url)),
        lambda: run_config.load(url),
        lambda: stages.ingest_shards([url], out="/nowhere/run"),
        lambda: stages.ingest_shards(["/nowhere/x"], out=url),
    )
    for door in doors:
        with pytest.raises(InputError, match="holds a credential") as caught:
            door()
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["aws_secret_access_key", "account_key", "private_key", "access_key_id", "PASSWORD"]
)
def test_a_key_of_a_credential_is_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"{key}: looks like a credential"):
        run_config.parse(replaced(values, f"training.arguments.{key}", "hunter2"))


def test_keys_and_urls_that_resemble_credentials_are_allowed(values: dict[str, Any]) -> None:
    named = {"pad_token_id": "x", "tokenizer": "y", "primary_key": "z", "url": "https://h/a@b?k=v"}
    assert list(credentials.problems(named)) == []


def test_a_secret_is_not_repeated_in_the_message(values: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        run_config.parse(replaced(values, "corpus.shards", ["s3://key:hunter2@bucket/x"]))
    assert "hunter2" not in str(caught.value)


def test_an_override_replaces_one_key_of_the_file(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values))
    loaded = run_config.load(str(file), overrides=["schedule.epochs=5", "cluster.workers=3"])
    assert (loaded.schedule.epochs, loaded.cluster.workers) == (5, 3)


def test_a_file_that_is_not_a_yaml_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("- a\n- b\n")
    with pytest.raises(InputError, match="expected keys and values, found list"):
        run_config.load(str(file))
    file.write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        run_config.load(str(file))


@pytest.mark.parametrize("text", ["[", "a: &x [*x]", "'", "{a: b: c}", "2026-13-45"])
def test_text_that_is_not_yaml_is_an_error_of_one_line(
    values: dict[str, Any], tmp_path: Path, text: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        run_config.load(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    file.write_text(yaml.safe_dump(values))
    for override in (f"model={text}", f"selection.temperature={text}"):
        with pytest.raises(InputError) as caught:
            run_config.load(str(file), overrides=[override])
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"--set {override}: ")


def test_a_folder_without_run_yaml_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="is not a run"):
        run_config.load(str(tmp_path))


def test_a_frozen_run_reads_back_as_the_same_configuration(values: dict[str, Any]) -> None:
    parsed = run_config.parse(values)
    run_config.freeze(parsed)
    assert run_config.load(parsed.run) == parsed


def test_what_is_reported_may_change_when_a_run_is_resumed_and_what_is_computed_may_not(
    values: dict[str, Any],
) -> None:
    run_config.freeze(run_config.parse(values))
    arguments = {"report_to": [], "logging_strategy": "steps", "logging_steps": 5, "run_name": "b"}
    values["training"] = {**values.get("training", {}), "arguments": arguments}
    run_config.check_frozen(run_config.parse(values))
    arguments["adam_beta1"] = 0.8
    with pytest.raises(InputError, match=r"training\.arguments\.adam_beta1: the run was started"):
        run_config.check_frozen(run_config.parse(values))


def test_columns_that_older_configurations_carry_become_annotations(
    values: dict[str, Any],
) -> None:
    values["scoring"] = {"carry": {"source": "string", "score": "number"}, "span_samples": 7}
    values["annotations"] = {"score": {"kind": "column", "column": "label"}}
    parsed = run_config.parse(values)
    assert parsed.annotations == {
        "source": {"kind": "column", "column": "source", "value_type": "string"},
        "score": {"kind": "column", "column": "label"},
    }
    assert parsed.scoring.span_samples == 7
    run_config.freeze(parsed)
    frozen = yaml.safe_load(Path(f"{parsed.run}/run.yaml").read_text())
    frozen["scoring"]["carry"] = {"source": "string"}
    del frozen["annotations"]["source"]
    Path(f"{parsed.run}/run.yaml").write_text(yaml.safe_dump(frozen))
    assert run_config.load(parsed.run) == parsed
    run_config.check_frozen(parsed)


def test_a_key_that_does_not_change_has_other_defaults(values: dict[str, Any]) -> None:
    values["annotations"] = {
        "points": {"kind": "column", "column": "label"},
        "duplicates": {"kind": "duplicates", "column": "image"},
    }
    values["selection"] = {"strategy": "key", "key": "points"}
    values["schedule"] = {"epochs": 2}
    parsed = run_config.parse(values)
    assert parsed.schedule.ratio.start == 0.2
    assert parsed.selection.composition.distinct == "duplicates"
    run_config.freeze(parsed)
    assert run_config.load(parsed.run) == parsed
    values |= {"run": values["run"] + "2", "schedule": {"epochs": 2, "ratio": {"start": 0.3}}}
    values["selection"] |= {"distinct": None}
    chosen = run_config.parse(values)
    assert (chosen.schedule.ratio.start, chosen.selection.composition.distinct) == (0.3, None)
    values["selection"] = {"strategy": "key", "key": "loss - points"}
    values["schedule"] = {"epochs": 2}
    learner = run_config.parse(values)
    assert learner.schedule.ratio.start == 0.5
    assert learner.selection.composition.distinct is None


def test_the_composition_of_a_strategy_stands_beside_its_settings(values: dict[str, Any]) -> None:
    values["scoring"] = {"carry": {"source": "string"}}
    values["selection"] = {"strategy": "hard", "by": "source", "quotas": {"a": 2, "b": 1}}
    parsed = run_config.parse(values)
    assert parsed.selection.composition.quotas == {"a": 2, "b": 1}
    assert parsed.to_plain_values()["selection"]["by"] == "source"
    run_config.freeze(parsed)
    assert run_config.load(parsed.run) == parsed


def test_quotas_may_name_strata_by_numbers_booleans_and_null(values: dict[str, Any]) -> None:
    values["scoring"] = {"carry": {"label": "integer"}}
    quotas = yaml.safe_load("{0: 1, true: 2, null: 3, 0.5: 4, web: 5}")
    values["selection"] = {"strategy": "hard", "by": "label", "quotas": quotas}
    parsed = run_config.parse(values)
    expected = {"0": 1, "true": 2, "null": 3, "0.5": 4, "web": 5}
    assert parsed.selection.composition.quotas == expected
    run_config.freeze(parsed)
    assert run_config.load(parsed.run) == parsed


@pytest.mark.parametrize("column", [{"functional_gradient": True}])
def test_columns_written_by_scoring_need_rounds_that_score(
    values: dict[str, Any], column: dict[str, Any]
) -> None:
    values["scoring"] = column
    values["schedule"] = {"epochs": 3, "warmup_epochs": 1, "rescore": {"kind": "observed"}}
    with pytest.raises(InputError, match=rf"scoring.{next(iter(column))}: .*nothing is scored"):
        run_config.parse(values)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "schedule.rescore",
            {"kind": "observed"},
            "task.augment: losses of mixed samples .*observed",
        ),
        (
            "training.micro_batch_size",
            1,
            "micro_batch_size is 1, and the task mixes samples in pai",
        ),
    ],
)
def test_samples_can_be_mixed_if_their_losses_are_not_needed(
    values: dict[str, Any], key: str, value: Any, message: str
) -> None:
    values["task"]["augment"] = {"mixup": 0.2}
    values["schedule"] = {"epochs": 3, "warmup_epochs": 1}
    assert run_config.parse(values).task.task.mixes
    with pytest.raises(InputError, match=message):
        run_config.parse(replaced(values, key, value))


def test_patches_are_dropped_only_where_the_loss_and_the_model_can_do_without(
    values: dict[str, Any],
) -> None:
    values["task"]["patches"] = {"keep": 0.5}
    assert run_config.parse(values).task.task.patches.until == 0.8
    other = replaced(values, "task.name", "semantic_segmentation")
    with pytest.raises(InputError, match=r"task\.patches: unknown key"):
        run_config.parse(other)
    swin = {"model_type": "swin", "image_size": 8, "patch_size": 2, "num_channels": 1}
    swin |= {"embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 2, "num_labels": 10}
    with pytest.raises(InputError, match=r"task\.patches: a model of type 'swin' needs all"):
        run_config.parse(replaced(values, "model.config", swin))


def test_a_run_may_be_resumed_on_another_cluster(values: dict[str, Any]) -> None:
    run_config.freeze(run_config.parse(values))
    run_config.freeze(run_config.parse(replaced(values, "cluster.workers", 7)))


def test_resuming_with_other_settings_names_every_key_that_differs(values: dict[str, Any]) -> None:
    run_config.freeze(run_config.parse(values))
    other = replaced(replaced(values, "seed", 4), "selection.temperature", 2.0)
    with pytest.raises(InputError) as caught:
        run_config.freeze(run_config.parse(other))
    assert "seed: the run was started with 0, now it is 4" in str(caught.value)
    assert "selection.temperature: the run was started with 0.5, now it is 2.0" in str(caught.value)


def test_a_task_without_a_tokenizer_takes_the_model_s(
    values: dict[str, Any], tmp_path: Path
) -> None:
    folder = str(tmp_path / "model")
    train_tokenizer(["some text"], Path(folder), vocab_size=300)
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 300}
    models = model_store("AutoModelForCausalLM", {"config": {**config, "eos_token_id": 1}})
    models.save(models.build(1), Path(folder))
    text = {**values, "task": {"name": "causal_lm", "text": "t"}, "model": {"path": folder}}
    assert run_config.parse(text).task.task.tokenizer == folder
    with pytest.raises(InputError, match=r"no tokenizer: set task\.tokenizer"):
        run_config.parse({**text, "model": {"config": config}})


def test_aliases_of_aliases_are_counted_before_they_are_expanded() -> None:
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for before, name in itertools.pairwise("abcdefghi"):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    with pytest.raises(InputError, match=r"its aliases \(\*x\) expand to \d+ values"):
        parse_yaml("\n".join(lines), source="c.yaml")
    assert parse_yaml("a: &a [1]\nb: *a", source="c.yaml") == {"a": [1], "b": [1]}


def test_a_frozen_configuration_that_was_changed_is_refused(values: dict[str, Any]) -> None:
    config = run_config.parse(values)
    run_config.freeze(config)
    path = Path(config.run) / "run.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(InputError, match=r"run\.yaml was changed after it was written"):
        run_config.load(config.run)
    text = path.read_text().splitlines()
    path.write_text("\n".join(text[1:]))  # edited on purpose
    assert run_config.load(config.run).seed == 1
