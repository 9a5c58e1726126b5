"""Runs with trackers: what they show is what the run stores, also after an interruption."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run
from tracked_rows import Stored, stored_rows, use_folder

from attent_select.errors import InputError
from catalogs import checked_json
from catalogs.layout import Layout
from pipeline import run
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.doctor.checks import examine
from pipeline.stages import train
from pipeline.tracking.round_rows import tracked_round
from pipeline.tracking.sending import load_trackers, send_rounds

TRACKERS = ("tensorboard", "mlflow", "trackio")
SELECTED = {f"selection/share/label/{digit}" for digit in range(10)}
LOSSES = {f"scoring/loss_p{percent}" for percent in ("05", "25", "50", "75", "95")}


def tracked_run(folder: Path, shards: Path, *, tracking: tuple[str, ...]) -> dict[str, Any]:
    selection = {"strategy": "soft", "by": "label"}
    return small_run(folder / "run", shards, selection=selection, tracking=list(tracking))


def values_in(url: str) -> Stored:
    """Return the rows of the three rounds of a run, each value as often as it should be stored."""
    rows = [tracked_round(url, number).rows for number in range(3)]
    return {
        step: {name: [row[name]] for name in row} for each in rows for step, row in each.items()
    }


def rounded(rows: Stored) -> Stored:
    """Return what an event file keeps: float32."""
    return {
        step: {name: [pytest.approx(value, rel=1e-6) for value in row[name]] for name in row}
        for step, row in rows.items()
    }


def test_trackers_show_one_run_over_all_rounds_and_processes(
    tmp_path: Path, shards: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folder(tmp_path, monkeypatch)
    config = run_config.parse(tracked_run(tmp_path, shards, tracking=TRACKERS))
    train(config, client=client)
    run(config, client=client)
    expected = values_in(config.run)
    for tracker in TRACKERS:
        (stored,) = stored_rows(tracker, config.run, tmp_path)
        assert stored == rounded(expected), tracker

    assert list(expected) == list(range(31))  # every step once
    of_round = {name for step, row in expected.items() if 15 <= step < 23 for name in row}
    assert of_round >= SELECTED | LOSSES | {"train/loss", "train/learning_rate", "train/padding"}
    assert {name for name in of_round if name.startswith(("eval/", "selection/"))} - SELECTED == {
        *("eval/eval_loss", "eval/accuracy", "selection/threshold", "selection/ratio"),
        *("selection/num_samples", "selection/overlap_with_round_before"),
    }
    selection = tracked_round(config.run, 1).rows[15]
    assert sum(selection[name] for name in SELECTED) == pytest.approx(1, abs=1e-5)
    assert selection["selection/overlap_with_round_before"] == 0.5  # half of all data

    # A process that was killed before it noted what it had sent.
    for tracker in TRACKERS:
        noted = Path(Layout(config.run).sent_rounds(tracker))
        content = checked_json.load(noted.read_bytes(), url=str(noted))
        noted.write_bytes(checked_json.dump(content | {"rounds": [0]}))
    send_rounds(config.run, load_trackers(TRACKERS))
    for tracker in TRACKERS:
        (stored,) = stored_rows(tracker, config.run, tmp_path)
        distinct = {
            step: {name: list(dict.fromkeys(values)) for name, values in row.items()}
            for step, row in stored.items()
        }
        assert distinct == rounded(expected), tracker


def test_a_tracker_that_is_down_gets_its_rounds_later(
    tmp_path: Path,
    shards: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    use_folder(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    values = tracked_run(tmp_path, shards, tracking=())
    run(run_config.parse(values), client=client)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        run(run_config.parse(values | {"tracking": ["mlflow"]}), client=client)
    warnings = [each.getMessage() for each in caplog.records if "tracking: mlflow" in each.message]
    assert len(warnings) == 3  # one after each round
    assert f"`attent run {values['run']}` sends what is missing" in warnings[0]

    run(run_config.parse(values | {"tracking": ["mlflow"]}), client=client)
    assert stored_rows("mlflow", values["run"], tmp_path) == [values_in(values["run"])]


def test_a_missing_package_is_found_before_the_run(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "pipeline.tracking.trackers.mlflow", raising=False)
    values = tracked_run(tmp_path, shards, tracking=("mlflow",))
    command = 'mlflow is not installed: run pip install "attent-select[mlflow]"'
    with pytest.raises(InputError, match="tracking: mlflow is not installed") as error:
        run(run_config.parse(values))
    assert command in str(error.value)
    assert not Path(values["run"]).exists()

    config = tmp_path / "config.yaml"
    config.write_bytes(run_config.dump_frozen(values))
    (finding,) = [each for each in examine(str(config)).findings if each.name == "tracking"]
    assert not finding.ok
    assert command in finding.detail


def test_wandb_without_a_key_does_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_folder(tmp_path, monkeypatch)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match="run `wandb login`, or set WANDB_MODE=offline"):
        load_trackers(["wandb"])


def test_an_unknown_tracker_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(InputError, match="tracking"):
        run_config.parse(tracked_run(tmp_path, shards, tracking=("clearml",)))
