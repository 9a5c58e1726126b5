"""A run is data: no command executes code that only the run names."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from digits import samples, write_corpus
from small_runs import small_run
from typer.testing import CliRunner

from attent_select.errors import InputError
from catalogs import Corpus, storage
from catalogs.layout import Layout
from catalogs.shards import inspect_shard
from pipeline.cli.app import app
from pipeline.config import run_config, trust

# A module that leaves a file when it is imported, with a class of each kind.
TRAP = """
from pathlib import Path
from attent_select.strategies.uniform import Uniform
from catalogs.formats.parquet import Parquet
from trainers.tasks.image_classification import ImageClassification
Path({mark!r}).write_text("executed")
"""
CODE: list[tuple[str, Any]] = [
    ("task.name", "trap.ImageClassification"),
    ("selection.strategy", "trap.Uniform"),
    ("task.transform", "trap.transform"),
    ("task.transform", "trap:transform"),
    ("annotations.relevance.task.transform", "trap.transform"),
    ("annotations.relevance.kind", "trap.Uniform"),
    ("annotations.relevance.task", "trap.ImageClassification"),
    ("annotations.relevance.task.name", "trap.ImageClassification"),
    ("model.trust_remote_code", True),
    ("model.config.attn_implementation", "somebody/kernels"),
    ("model.config.use_kernels", True),
]
CLUSTERS = [
    {"scheduler": "subprocess.Popen", "arguments": {"args": ["true"]}},
    {"scheduler": "tcp://192.0.2.1:8786"},
    {"scheduler": "distributed.LocalCluster", "arguments": {"n_workers": 1}},
]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that exists once the trap's code was executed."""
    mark = tmp_path / "executed"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trap.py").write_text(TRAP.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    return mark


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    write_corpus(tmp_path / "parquet", samples(8), num_shards=1)
    values = small_run(tmp_path / "run", tmp_path)
    del values["evaluation"]
    return values


def freeze(values: dict[str, Any]) -> str:
    """Write the values as the run.yaml of a run, as a stranger could."""
    run: str = values["run"]
    storage.publish(Layout(run).config, yaml.safe_dump(values).encode())
    return run


def with_value(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *sections, key = path.split(".")
    section = changed
    for name in sections:
        section = section.setdefault(name, {})
    section[key] = value
    return changed


@pytest.mark.parametrize(("key", "value"), CODE)
def test_a_setting_of_a_run_that_executes_code_is_named_and_not_executed(
    values: dict[str, Any], mark: Path, key: str, value: Any
) -> None:
    run = freeze(with_value(values, key, value))
    with pytest.raises(InputError, match=rf"run\.yaml: {key}: .*--trust-run"):
        run_config.load(run)
    assert not mark.exists()


@pytest.mark.parametrize(("key", "value"), CODE[:2])
def test_a_trusted_run_and_a_configuration_use_the_code_that_they_name(
    values: dict[str, Any], mark: Path, key: str, value: Any, tmp_path: Path
) -> None:
    changed = with_value(values, key, value)
    run_config.load(freeze(changed), trust_run=True)
    assert mark.exists()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(changed))
    run_config.load(str(config))


def test_a_setting_that_the_caller_replaces_is_the_callers(
    values: dict[str, Any], mark: Path
) -> None:
    run = freeze(with_value(values, "selection.strategy", "trap.Uniform"))
    run_config.load(run, overrides=["selection.strategy=uniform"])
    assert not mark.exists()


def test_a_command_that_does_not_select_ignores_the_strategy(
    values: dict[str, Any], mark: Path
) -> None:
    run = freeze(with_value(values, "selection.strategy", "trap.Uniform"))
    run_config.load(run, sections=("task", "model"))
    assert run_config.load_frozen(run).selection.strategy_name == "trap.Uniform"
    assert not mark.exists()


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_cluster_of_a_run_is_only_used_if_the_caller_names_it(
    values: dict[str, Any], cluster: dict[str, Any]
) -> None:
    run = freeze({**values, "cluster": cluster})
    run_config.load(run)
    with pytest.raises(InputError, match=r"cluster\.scheduler: .*--trust-run"):
        trust.check_run(run, ("cluster",))
    local = run_config.with_scheduler([], "local")
    trust.check_run(run, ("cluster",), overrides=local)
    assert run_config.load(run, overrides=local).cluster.scheduler == "local"


def test_only_cluster_classes_of_dask_are_called(values: dict[str, Any], tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    cluster = {"scheduler": "subprocess.Popen", "arguments": {"args": ["touch", str(touched)]}}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**values, "cluster": cluster}))
    done = CliRunner().invoke(app, ["doctor", str(config)])
    assert done.exit_code == 2
    assert "subprocess.Popen is not a cluster class of Dask" in done.output
    assert not touched.exists()


def test_a_manifest_does_not_execute_a_format_either(tmp_path: Path, mark: Path) -> None:
    write_corpus(tmp_path / "shards", samples(8), num_shards=1)
    (stored,) = storage.expand([str(tmp_path / "shards")])
    inspection = inspect_shard(stored.url, "parquet")
    run = str(tmp_path / "run")
    Corpus.from_inspections([(stored, "trap.Parquet", inspection)]).save(run)
    with pytest.raises(InputError, match=r"trap\.Parquet.*--trust-run"):
        Corpus.open(run)
    assert not mark.exists()
    refused = CliRunner().invoke(app, ["query", run, "SELECT format FROM corpus"])
    assert refused.exit_code == 2
    assert not mark.exists()
    trusted = CliRunner().invoke(app, ["query", run, "SELECT uri FROM corpus", "--trust-run"])
    assert trusted.exit_code == 0, trusted.output
    assert mark.exists()
    assert Corpus.open(run).read(0, rows=[0], columns=["label"]).num_samples == 1


def test_every_command_that_takes_a_run_can_trust_it() -> None:
    for name in (
        *("score", "select", "stream", "train", "run", "annotate", "annotations"),
        *("export", "query", "explore", "antk", "report", "gc", "doctor"),
    ):
        assert "--trust-run" in CliRunner().invoke(app, [name, "--help"], terminal_width=200).output
