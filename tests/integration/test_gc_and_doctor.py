"""`attent gc` and `attent doctor` on real runs, storage and clusters."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import moto_s3, rclone_s3
from small_runs import small_run
from typer.testing import CliRunner

from attent_select.errors import ExistsError, MissingError
from catalogs import LossCatalog, storage
from catalogs.layout import Layout
from catalogs.storage.probe import probe
from pipeline import score, stages
from pipeline.cli.app import app
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.runs.garbage_collection import collect_garbage
from pipeline.runs.lease import hold_lease
from pipeline.runs.state import ensure_decision, prepare
from pipeline.scoring.driver import ScoringJob
from pipeline.scoring.full_scoring import FullScoring
from pipeline.scoring.partial_rescoring import PartialRescoring
from pipeline.scoring.score_stage import score_stage
from pipeline.scoring.worker import measure_span


def names(folder: str) -> set[str]:
    return {item.url.rpartition("/")[2] for item in storage.list_objects(folder)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client) -> str:
    """A run of three rounds, the last two of which were scored."""
    from pipeline import run

    folder = tmp_path_factory.mktemp("gc") / "run"
    run(run_config.parse(small_run(folder, shards)), client=client)
    return str(folder)


def test_gc_removes_superseded_losses_and_orphans_and_nothing_else(finished: str) -> None:
    layout, catalog = Layout(finished), LossCatalog(finished)
    newest = catalog.latest().collect()
    used = {f"{part}.parquet" for part in catalog.snapshot(2)["part"].unique()}
    superseded = names(layout.parts) - used
    assert (catalog.rounds(), len(superseded) > 0) == ([1, 2], True)
    storage.publish(layout.span("orphan"), b"left by scoring that was given up")
    storage.publish(layout.journal("orphan"), b"{}")
    temporary = Path(layout.parts) / ".x.parquet.0.attent-tmp"
    temporary.write_bytes(b"half")
    os.utime(temporary, (0, 0))
    before = {item.url for item in storage.list_objects(finished)}

    dry = collect_garbage(finished, dry_run=True)
    assert {item.url for item in storage.list_objects(finished)} == before
    assert (dry.snapshots, dry.parts, dry.spans, dry.journals, dry.plans, dry.leftovers) == (
        1, len(superseded), 1, 1, 2, 1,
    )  # fmt: skip
    done = collect_garbage(finished)
    assert (done.parts, done.num_bytes) == (dry.parts, dry.num_bytes)
    assert names(layout.parts) == used
    assert catalog.rounds() == [2]
    assert catalog.latest().collect().equals(newest)
    assert not temporary.exists()
    gone = before - {item.url for item in storage.list_objects(finished)}
    assert all("/losses/" in url for url in gone)
    assert collect_garbage(finished).num_bytes == 0, "a second time there is nothing to remove"


def test_gc_keeps_what_interrupted_scoring_resumes_with(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule__warmup_epochs=0))
    run = prepare(settings, cluster=lambda: client)
    job = ScoringJob(settings, client, round_number=0, checkpoint=run.layout.initial_checkpoint)
    plan = FullScoring(job).plan()
    for task in plan.tasks[:2]:
        measure_span(task)
    assert collect_garbage(run.config.run).num_bytes == 0
    result = score_stage(run, run.rounds[0], cluster=lambda: client)
    assert (result.scored, result.skipped) == (160, 80)


def test_gc_keeps_what_an_interrupted_partial_round_resumes_with(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule__warmup_epochs=0))
    score(settings, client=client)
    stages.train(settings, client=client)
    run = ensure_decision(prepare(settings, cluster=lambda: client), 1, fraction=0.5)
    start = run.start_checkpoint(run.rounds[1])
    job = ScoringJob(settings, client, round_number=1, checkpoint=start)
    task, *_ = PartialRescoring(job, share=0.5, ratio=0.5).plan().tasks
    measure_span(task)
    assert collect_garbage(settings.run).spans == 0
    assert score(settings, client=client).scored == 120 - task.num_rows


def test_gc_refuses_a_run_of_a_driver_and_a_folder_without_a_run(
    finished: str, tmp_path: Path
) -> None:
    with hold_lease(finished), pytest.raises(ExistsError, match="works on this run"):
        collect_garbage(finished)
    with pytest.raises(MissingError, match="is not a run"):
        collect_garbage(str(tmp_path))


@pytest.mark.parametrize(
    ("serve", "expected"), [(moto_s3, ("native", True)), (rclone_s3, ("fsspec", False))]
)
def test_the_probe_tells_servers_apart(
    serve: Any, expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        found = probe(f"{server.url}/probed")
        assert storage.list_objects(f"{server.url}/probed") == [], "it leaves nothing behind"
    assert (found.ranges, found.conditional_put) == expected
    assert found.request_seconds > 0


def doctor(*arguments: str) -> tuple[int, dict[str, Any]]:
    answer = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return answer.exit_code, json.loads(answer.stdout)


def test_the_doctor_finds_all_well_and_says_what_a_run_will_cost(
    tmp_path: Path, shards: Path
) -> None:
    file = tmp_path / "run.yaml"
    values = small_run(tmp_path / "run", shards, cluster={"workers": 1})
    file.write_text(yaml.safe_dump(values))
    code, found = doctor(str(file))
    assert (code, found["ok"]) == (0, True)
    assert [one["name"].split(",")[0] for one in found["findings"]] == [
        "environment", "configuration", "storage of the run", "shards",
        "advice", "cluster", "samples",
    ]  # fmt: skip
    estimate = found["estimate"]
    assert (estimate["num_samples"], estimate["num_scored_rounds"]) == (
        pytest.approx(240, abs=20),
        2,
    )
    per_round = estimate["num_samples"] / estimate["score_samples_per_second"]
    assert estimate["score_seconds"] == pytest.approx(2 * per_round)
    # One shard of 60 held-out samples, after each of three rounds.
    assert estimate["evaluated_samples"] == 60
    evaluated = 3 * 60 / estimate["score_samples_per_second"]
    assert estimate["evaluate_seconds"] == pytest.approx(evaluated)
    assert not Path(values["run"]).exists() or not list(Path(values["run"]).iterdir())


def test_the_doctor_says_what_is_wrong_and_ends_with_2(tmp_path: Path, shards: Path) -> None:
    code, found = doctor()
    assert (code, [one["name"] for one in found["findings"]]) == (0, ["environment"])
    file = tmp_path / "run.yaml"
    values = small_run(tmp_path / "run", shards, task__image_size="eight")
    file.write_text(yaml.safe_dump(values))
    code, found = doctor(str(file))
    assert (code, found["ok"], found["estimate"]) == (2, False, None)
    assert "task.image_size" in found["findings"][-1]["detail"]
    values = small_run(tmp_path / "run", shards)
    values["cluster"] = {"scheduler": "tcp://127.0.0.1:9", "connect_timeout_seconds": 0.5}
    file.write_text(yaml.safe_dump(values))
    code, found = doctor(str(file))
    assert (code, found["findings"][-1]["name"]) == (2, "cluster")
    assert "no scheduler answered at tcp://127.0.0.1:9" in found["findings"][-1]["detail"]
