"""Scoring on a real cluster: every sample has its loss, measured once."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from digits import TASK, VIT, samples, write_corpus
from small_runs import small_run

from attent_select.errors import ExistsError, InputError, MissingError
from catalogs import LossCatalog
from catalogs.layout import Layout
from pipeline import metrics, score
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.query import query
from pipeline.runs.lease import hold_lease
from pipeline.runs.state import prepare
from pipeline.scoring.driver import ScoringJob, score_round
from pipeline.scoring.full_scoring import FullScoring
from pipeline.scoring.score_stage import score_stage
from pipeline.scoring.scoring_plan import freeze_plan, span_tasks
from pipeline.scoring.worker import measure_span
from pipeline.selection.select_stage import select_stage
from trainers import checkpoint

QUICK = {"selection__strategy": "hard", "schedule__warmup_epochs": 0}


def scored(run: Path, shards: Path, client: Client, **replaced: Any) -> Any:
    return score(run_config.parse(small_run(run, shards, **QUICK, **replaced)), client=client)


def test_every_sample_has_the_loss_that_the_task_gives_it(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    result = scored(tmp_path / "run", shards, client)
    assert (result.scored, result.skipped, result.failed) == (240, 0, {})
    losses = LossCatalog(str(tmp_path / "run")).latest().collect()
    opened = checkpoint.open(Layout(str(tmp_path / "run")).initial_checkpoint)
    assert opened is not None
    model = opened.load(TASK.models(VIT)).eval()
    items = [TASK.prepare(sample, generator=None) for sample in samples(240)]
    with torch.inference_mode():
        expected, _ = TASK.per_sample_loss(model, TASK.collate(items))
    assert losses["loss"].to_list() == pytest.approx(expected.tolist(), abs=1e-5)
    assert losses["status"].unique().to_list() == ["ok"]
    assert losses["origin"].unique().to_list() == ["scored"]


def test_tars_and_parquet_have_the_same_losses_and_select_the_same_rows(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    results = {}
    for kind in ("parquet", "webdataset"):
        values = small_run(tmp_path / kind, shards, selection={"strategy": "soft"})
        values["corpus"] = {"shards": [str(shards / kind)]}
        values["schedule"]["warmup_epochs"] = 0
        run = prepare(run_config.parse(values), cluster=lambda: client)
        losses = score_stage(run, run.rounds[0], cluster=lambda: client)
        index = select_stage(run, run.rounds[0])
        results[kind] = (losses.catalog_digest, index.digest, index.num_samples)
    assert results["parquet"] == results["webdataset"]
    assert results["parquet"][2] == 120


def test_spans_finished_before_a_kill_are_not_measured_again(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    whole = scored(tmp_path / "whole", shards, client)
    settings = run_config.parse(small_run(tmp_path / "begun", shards, **QUICK))
    run = prepare(settings, cluster=lambda: client)
    job = ScoringJob(settings, client, round_number=0, checkpoint=run.layout.initial_checkpoint)
    for task in list(span_tasks(run.corpus, job.measurement))[:2]:
        measure_span(task)
    result = score(settings, client=client)
    assert (result.scored, result.skipped) == (160, 80)
    assert result.catalog_digest == whole.catalog_digest
    again = score(settings, client=client, round_number=0)
    assert (again.scored, again.skipped, again.seconds) == (0, 240, 0.0)


def test_losses_do_not_depend_on_the_size_of_parts(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    one = scored(tmp_path / "one", shards, client, scoring__part_samples=1000)
    three = scored(tmp_path / "three", shards, client, scoring__part_samples=1)
    parts = [len(list(Path(Layout(str(tmp_path / n)).parts).iterdir())) for n in ("one", "three")]
    assert parts == [1, 3]
    assert one.catalog_digest == three.catalog_digest


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Shards in which every tenth image is invalid; `source` names the shard."""
    rows = samples(60)
    for number, row in enumerate(rows):
        row["source"] = f"s{number // 20}"
        if number % 10 == 0:
            row["image"] = b"no image"
    folder = tmp_path / "damaged"
    write_corpus(folder / "parquet", rows)
    write_corpus(folder / "held-out", samples(10), num_shards=1)
    return folder


def test_unreadable_samples_are_counted_and_the_others_scored(
    tmp_path: Path, damaged: Path, client: Client
) -> None:
    result = scored(tmp_path / "run", damaged, client, scoring__max_failed_share=0.1)
    assert result.failed == {"unreadable": 6}
    (example,) = result.examples
    assert (Path(example.shard).name, example.row) == ("000.parquet", 0)
    assert example.reason.startswith("the image cannot be decoded")
    losses = LossCatalog(str(tmp_path / "run")).latest().collect()
    lost = losses.filter(pl.col("loss").is_null())
    assert lost["row"].to_list() == [0, 10] * 3


def test_too_many_failures_stop_the_run_until_the_share_is_raised(
    tmp_path: Path, damaged: Path, client: Client
) -> None:
    message = (
        r"6 of 60 samples have no loss.*max_failed_share 0\.09 allows: 6 unreadable; for example "
        r"row \d+ of .*\.parquet: .*image"
    )
    with pytest.raises(InputError, match=message):
        scored(tmp_path / "run", damaged, client, scoring__max_failed_share=0.09)
    result = scored(tmp_path / "run", damaged, client, scoring__max_failed_share=0.2)
    assert (result.scored, result.skipped) == (0, 60), "measured losses are kept"


def test_a_column_missing_from_the_corpus_is_an_error_before_the_run_is_frozen(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    with pytest.raises(InputError, match="has no column picture; it has image"):
        scored(tmp_path / "run", shards, client, task__image="picture")
    assert scored(tmp_path / "run", shards, client).scored == 240


def test_a_round_cannot_be_scored_before_the_round_before_was_trained(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, **QUICK))
    with pytest.raises(MissingError, match=r"no finished checkpoint at .*00000"):
        score(settings, client=client, round_number=1)
    with pytest.raises(InputError, match="the schedule has rounds 0 to 2"):
        score(settings, client=client, round_number=3)


def test_scoring_statistics_are_kept_and_do_not_finish_the_round(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    result = scored(tmp_path / "run", shards, client)
    kept = query(str(tmp_path / "run"), "SELECT * FROM scoring").row(0, named=True)
    assert kept == {"round": 0, **result.numbers}
    assert (kept["num_spans"], kept["num_samples"], kept["num_units"]) == (6, 240, 240)
    assert kept["num_bytes"] >= sum(p.stat().st_size for p in (shards / "parquet").iterdir())
    assert 0 < kept["busy_share"] <= 1
    assert kept["padding"] == 0  # images
    assert kept["samples_per_second"] == pytest.approx(240 / kept["seconds"])
    assert metrics.read(str(tmp_path / "run"), 0) is None
    assert len(metrics.table(str(tmp_path / "run"))) == 0


def test_a_run_of_another_driver_is_refused(tmp_path: Path, shards: Path, client: Client) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, **QUICK))
    with hold_lease(settings.run), pytest.raises(ExistsError, match="works on this run"):
        score(settings, client=client)
    assert score(settings, client=client).scored == 240


def test_after_out_of_memory_the_next_round_uses_smaller_batches(
    tmp_path: Path, shards: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # a local cluster has raised the level of the handler
    values = small_run(tmp_path / "run", shards, **QUICK, task__name="poisonous.Hungry")
    values["task"] |= {"most": 9}
    settings = run_config.parse(values)
    result = score(settings, client=client)
    assert (result.failed, result.numbers["num_splits"] > 0) == ({}, True)
    assert "did not fit into memory and were halved" in caplog.text
    catalog = LossCatalog(settings.run)
    learned = catalog.provenance(0)["fitting_units"]
    assert learned <= 9
    job = ScoringJob(
        settings,
        client,
        round_number=1,
        checkpoint=Layout(settings.run).initial_checkpoint,
    )
    plan = freeze_plan(catalog, job.measurement, round_number=1)
    assert plan.measurement.settings.batch_units == learned
    assert all(task.measurement is plan.measurement for task in plan.tasks)
    again = freeze_plan(catalog, job.measurement, round_number=1)
    assert [task.digest for task in again.tasks] == [task.digest for task in plan.tasks]
    second = score_round(job, FullScoring(job))
    assert second.numbers["num_splits"] == 0
    assert catalog.provenance(1)["fitting_units"] == learned, "later rounds use it too"


def test_a_shard_that_changed_before_scoring_is_named(
    tmp_path: Path, damaged: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", damaged, **QUICK))
    run = prepare(settings, cluster=lambda: client)
    changed = damaged / "parquet" / "001.parquet"
    table = pq.read_table(changed)
    pq.write_table(table.slice(0, 7), changed)
    with pytest.raises(InputError, match=r"001\.parquet"):
        score_stage(run, run.rounds[0], cluster=lambda: client)
