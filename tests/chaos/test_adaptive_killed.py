"""Adaptive runs with partial re-scoring, killed with SIGKILL: decisions are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from run_process import finish, kill_when
from small_runs import often_saved

from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.layout import Layout
from pipeline import run
from pipeline.cluster import Client
from pipeline.config import run_config
from trainers import checkpoint

ADAPTIVE = {
    "epochs": 5,
    "warmup_epochs": 1,
    "ratio": {"kind": "adaptive", "start": 0.5, "low": 0.3},
    "rescore": {"kind": "partial", "share": 0.4},
}


def decisions(url: str) -> list[dict[str, Any]]:
    """Return all decisions without the cost of scoring, whose seconds vary."""
    files = sorted(Path(Layout(url).decisions).iterdir())
    varying = {"cost": None, "content_digest": None}
    return [{**json.loads(file.read_text()), **varying} for file in files]


def final_state(url: str) -> dict[str, Any]:
    """Return what must not depend on how often a run was killed."""
    corpus, layout, catalog = Corpus.open(url), Layout(url), LossCatalog(url)
    numbers = range(len(list(Path(layout.metrics).glob("*.parquet"))))
    checkpoints = [checkpoint.open(layout.checkpoint(number)) for number in numbers]
    return {
        "decisions": decisions(url),
        "losses": [catalog.digest(number) for number in catalog.rounds()],
        "calibrations": [catalog.provenance(n).get("calibration") for n in catalog.rounds()],
        "visits": catalog.latest().collect()["visits"].to_list(),
        "indexes": [IndexFile.open(layout.index(n), corpus=corpus).digest for n in numbers],
        "weights": [each.weights_digest for each in checkpoints if each is not None],
    }


def written(run: Path, shards: Path, client: Client, schedule: dict[str, Any]) -> Path:
    """Write a configuration that uses the running cluster, to save the time of starting one."""
    cluster = {"scheduler": client.scheduler.address}
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(often_saved(run, shards, schedule=schedule, cluster=cluster)))
    return file


def test_an_adaptive_run_killed_in_each_stage_ends_like_an_undisturbed_run(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    undisturbed = tmp_path / "undisturbed"
    run(run_config.parse(often_saved(undisturbed, shards, schedule=ADAPTIVE)), client=client)

    killed = tmp_path / "killed"
    layout = Layout(str(killed))
    file = written(killed, shards, client, ADAPTIVE)
    decision, rescored = Path(layout.decision(2)), Path(layout.rescored(2))
    spans, snapshot = Path(layout.spans), Path(layout.snapshot(2))
    trained = Path(layout.checkpoint(2))

    kill_when(file, decision.exists)
    assert not snapshot.exists(), "killed after deciding"
    before = decision.read_bytes()
    # The rows to measure are written, and some spans are finished.
    kill_when(file, lambda: rescored.exists() and any(spans.glob("*.parquet")))
    assert not snapshot.exists(), "killed while scoring"
    kill_when(file, lambda: any(trained.glob("step-*/checkpoint.json")))
    assert not (trained / "checkpoint.json").exists(), "killed while training"
    finish(file)

    assert decision.read_bytes() == before
    assert final_state(str(killed)) == final_state(str(undisturbed))
    assert len(decisions(str(killed))) >= 3


def test_decisions_that_depend_on_speed_are_not_made_again(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    schedule = ADAPTIVE | {"epochs": 4, "rescore": {"kind": "auto", "share": 0.4}}
    first, second = tmp_path / "first", tmp_path / "second"
    files = [written(each, shards, client, schedule) for each in (first, second)]
    # Until the last round is decided, which depends on the speed of this machine.
    kill_when(files[0], Path(Layout(str(first)).decision(3)).exists)
    shutil.copytree(first, second)
    for file in files:
        finish(file)
    assert final_state(str(first)) == final_state(str(second))
    costs = [Path(Layout(str(each)).decision(3)).read_bytes() for each in (first, second)]
    assert costs[0] == costs[1]
