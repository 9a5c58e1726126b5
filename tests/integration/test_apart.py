"""`attent score` without torch in its driver: a subprocess does the setup, with the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from small_runs import small_run

from attent_select.errors import AttentError, InputError, MissingError
from catalogs.layout import Layout
from pipeline import score
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.runs.setup import save_initial
from pipeline.runs.setup_process import setup_in_subprocess

QUICK = {"selection__strategy": "hard", "schedule__warmup_epochs": 0}
# Scores a configuration file and prints which heavy modules it has imported.
DRIVER = """
import json, sys
from pipeline import score
if __name__ == "__main__":
    result = score(sys.argv[1])
    heavy = sorted({"torch", "transformers", "peft"} & sys.modules.keys())
    print(json.dumps([result.scored, result.skipped, result.catalog_digest, heavy]))
"""


def written(folder: Path, values: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def driven(folder: Path, source: str) -> list[Any]:
    script = folder / "driver.py"
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout)
    return answer


def test_a_driver_without_torch_gives_the_same_losses_and_span_names(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    here = run_config.parse(small_run(tmp_path / "here", shards, **QUICK))
    expected = score(here, client=client)
    source = written(tmp_path, small_run(tmp_path / "there", shards, **QUICK))
    assert driven(tmp_path, source) == [240, 0, expected.catalog_digest, []]
    frozen = [yaml.safe_load((tmp_path / n / "run.yaml").read_text()) for n in ("here", "there")]
    assert frozen[0] | {"run": ""} == frozen[1] | {"run": ""}
    # Spans have the same names, so each driver finds what the other has measured.
    plans = [pl.read_parquet(Layout(str(tmp_path / name)).plan(0)) for name in ("here", "there")]
    assert plans[0].equals(plans[1])


def test_errors_in_the_configuration_are_the_same_as_without_a_subprocess(
    tmp_path: Path, shards: Path
) -> None:
    values = small_run(tmp_path / "run", shards, model__config__num_labels=0, seed=-1)
    source = written(tmp_path, values | {"training": {"batch_size": 0}})
    with pytest.raises(InputError) as here:
        run_config.load(source)
    with pytest.raises(InputError) as there, setup_in_subprocess(source, overrides=()):
        pass
    assert str(there.value) == str(here.value)


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingError, match="is not a run"),
        setup_in_subprocess(str(tmp_path), overrides=()),
    ):
        pass


def test_the_configuration_is_the_same_and_the_subprocess_ends_before_scoring(
    tmp_path: Path, shards: Path
) -> None:
    # Without a corpus, so that no sample is tried for its use.
    source = written(
        tmp_path, small_run(tmp_path / "run", shards, **QUICK, scoring__max_failed_share=1.0)
    )
    overrides = ["seed=3", "scoring.carry={label: integer}"]
    here = run_config.load(source, overrides=overrides)
    with setup_in_subprocess(source, overrides=overrides) as (there, save):
        assert there.to_plain_values() == here.to_plain_values()
        assert there.task.task.columns == here.task.task.columns
        assert there.task.task.load() == here.task.task
        assert there.training == here.training
        assert there.selection == here.selection
        assert len(children()) == 1
        save(there)
        assert not children()
    saved = sorted(tmp_path.rglob("*"))
    save_initial(here)
    assert sorted(tmp_path.rglob("*")) == saved


def test_a_damaged_initial_model_is_an_error(tmp_path: Path, shards: Path) -> None:
    source = written(
        tmp_path, small_run(tmp_path / "run", shards, **QUICK, scoring__max_failed_share=1.0)
    )
    save_initial(run_config.load(source))
    next((tmp_path / "run").rglob("model.safetensors")).unlink()
    with (
        setup_in_subprocess(source, overrides=()) as (config, save),
        pytest.raises(AttentError, match=r"is damaged|was changed"),
    ):
        save(config)


def test_a_killed_subprocess_is_an_error_with_its_status(tmp_path: Path, shards: Path) -> None:
    source = written(tmp_path, small_run(tmp_path / "run", shards, **QUICK))
    with setup_in_subprocess(source, overrides=()) as (config, save):
        for child in children():
            os.kill(child, 9)
        with pytest.raises(AttentError, match="ended with status -9"):
            save(config)


def children() -> list[int]:
    """Return the setup subprocesses of this process."""
    import psutil

    return [
        child.pid
        for child in psutil.Process().children()
        # A zombie has no command line; other helpers of this process may have ended.
        if child.status() != psutil.STATUS_ZOMBIE
        and "pipeline.runs.setup_process" in child.cmdline()
    ]
