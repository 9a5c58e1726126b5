"""Rounds that score a share of the corpus again, or nothing, in one process with a cluster."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_runs import small_run

from attent_select.errors import InputError, MissingError
from catalogs import IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from pipeline import run, score, stages
from pipeline.adaptive import decision_log
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.html_report import write_report
from pipeline.reports.query import query
from pipeline.runs.state import prepare

KEY = ["shard_id", "row"]
SCHEDULE = {"epochs": 4, "warmup_epochs": 1, "ratio": {"start": 0.5}}


def cheap(folder: Path, shards: Path, rescore: dict[str, Any], **replaced: Any) -> Any:
    """Return the configuration of a warm-up round and three teaching rounds."""
    return run_config.parse(
        small_run(folder, shards, schedule=SCHEDULE | {"rescore": rescore}, **replaced)
    )


@pytest.mark.parametrize(
    ("rescore", "scored"),
    [
        ({"kind": "partial", "share": 0.3, "by": "staleness"}, [240, 72, 72]),
        ({"kind": "partial", "share": 0.3, "by": "threshold"}, [240, 72, 72]),
        ({"kind": "none"}, [240, 0, 0]),
    ],
    ids=["staleness", "threshold", "none"],
)
def test_every_row_has_its_newest_loss_in_every_round(
    tmp_path: Path, shards: Path, client: Client, rescore: dict[str, Any], scored: list[int]
) -> None:
    settings = cheap(tmp_path / "run", shards, rescore, selection={"strategy": "hard"})
    result = run(settings, client=client)
    assert [r.get("samples_scored") for r in result["rounds"]] == [None, *scored]
    catalog = LossCatalog(settings.run)
    for number in (2, 3):
        rows = catalog.latest(number).collect()
        keys = rows.select("shard_id", "row").rows()
        assert keys == [(shard, row) for shard in range(3) for row in range(80)]
        step = catalog.provenance(number)["measured_step"]
        assert rows.filter(measured_step=step, origin="scored").height == scored[number - 1]
        kept = catalog.latest(number - 1).collect()
        seen = catalog.observed_losses(number - 1).collect().select("shard_id", "row", "step")
        both = rows.join(kept, on=KEY, suffix=" before").join(seen, on=KEY, how="left")
        assert (
            both["visits"].to_list()
            == (both["visits before"] + both["step"].is_not_null().cast(pl.UInt16)).to_list()
        )
        others = both.filter(pl.col("measured_step") != step)
        observed = others.filter(pl.col("step").is_not_null())
        assert observed["origin"].unique().to_list() == ["observed"]
        assert observed["measured_step"].to_list() == observed["step"].to_list()
        untouched = others.filter(pl.col("step").is_null())
        for name in ("loss", "measured_step", "origin"):
            assert untouched[name].to_list() == untouched[f"{name} before"].to_list()
        assert rows["loss"].is_finite().all()
    assert storage.list_objects(Layout(settings.run).spans) == []


def test_with_rescore_observed_losses_come_from_training_only(
    tmp_path: Path, shards: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="attent")
    settings = cheap(tmp_path / "run", shards, {"kind": "observed"}, selection={"strategy": "hard"})
    result = run(settings, client=client)
    assert [r.get("samples_scored") for r in result["rounds"]] == [None, 0, 0, 0]
    assert sorted(decision_log.read_all(settings.run)) == [1, 2, 3]
    assert "was decided" not in caplog.text, "every value is that of the configuration"
    catalog = LossCatalog(settings.run)
    first = catalog.latest(1).collect()
    assert first.select("shard_id", "row").rows() == [(s, r) for s in range(3) for r in range(80)]
    seen = catalog.observed_losses(0).collect().sort(KEY)
    assert set(first["origin"]) == {"observed"}
    assert set(first["visits"]) == {1}
    assert first["measured_step"].to_list() == seen["step"].to_list()
    assert "trend" in catalog.provenance(1)["calibration"]["source"]
    chosen = IndexFile.open(Layout(settings.run).index(1)).frame().collect()
    best = first.sort("loss", descending=True).head(120)
    assert sorted(best.select(KEY).rows()) == chosen.select(KEY).rows()
    assert set(catalog.latest(3).collect()["visits"]) > {1}
    assert (
        decision_log.read_all(settings.run)[1]
        .reasons["rescore"]
        .startswith("nothing: only losses observed")
    )


def test_selection_uses_the_updated_losses(tmp_path: Path, shards: Path, client: Client) -> None:
    settings = cheap(tmp_path / "run", shards, {"kind": "none"}, selection={"strategy": "hard"})
    run(settings, client=client)
    losses = LossCatalog(settings.run).latest(3).collect()
    chosen = IndexFile.open(Layout(settings.run).index(3)).frame().collect()
    best = losses.sort("loss", descending=True).head(120)
    assert sorted(best.select("shard_id", "row").rows()) == chosen.select("shard_id", "row").rows()
    first = IndexFile.open(Layout(settings.run).index(1)).digest
    assert IndexFile.open(Layout(settings.run).index(3)).digest != first


def test_decisions_are_stored_with_reasons_and_logged(
    tmp_path: Path, shards: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="attent")
    settings = cheap(tmp_path / "run", shards, {"kind": "auto", "share": 0.4})
    result = run(settings, client=client)
    made = decision_log.read_all(settings.run)
    assert sorted(made) == [1, 2, 3], "a warm-up round is not decided"
    assert made[1].rescore == 1
    assert made[2].rescore == 0.4, "drift is not known before anything was measured twice"
    assert made[3].signals.drift is not None
    assert 0.02 <= made[3].rescore <= 1
    assert [made[n].cost.source for n in (1, 2, 3)] == ["prior", "measured", "measured"]
    assert [r.get("samples_scored") for r in result["rounds"]][1:3] == [240, 96]
    assert "round 1 was decided:" in caplog.text
    assert "round 3 was decided:" in caplog.text
    assert made[3].reasons["rescore"] in caplog.text
    table = query(settings.run, "SELECT round, rescore, phi_source, why_rescore FROM decisions")
    assert table.row(0) == (1, 1.0, "prior", "everything: nothing was scored before")
    page = Path(write_report(settings.run)).read_text()
    assert "<h3>Decisions</h3>" in page
    assert made[3].reasons["rescore"] in page
    before = Path(Layout(settings.run).decision(3)).read_bytes()
    assert run(settings, client=client) == result
    assert Path(Layout(settings.run).decision(3)).read_bytes() == before


def test_an_adaptive_run_spends_the_steps_of_a_fixed_run_and_ends_with_annealing(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    ratio = {"kind": "adaptive", "start": 0.4, "low": 0.2, "high": 0.8}
    schedule = {"epochs": 6, "warmup_epochs": 1, "anneal_epochs": 1, "ratio": ratio}
    settings = run_config.parse(
        small_run(tmp_path / "run", shards, schedule=schedule, selection={"strategy": "hard"})
    )
    result = run(settings, client=client)
    fixed = run_config.parse(
        small_run(tmp_path / "fixed", shards, schedule=schedule | {"ratio": {"start": 0.4}})
    )
    budget = prepare(fixed, cluster=lambda: client).total_steps
    assert sum(r["num_steps"] for r in result["rounds"]) == budget == 54
    phases = [r["phase"] for r in result["rounds"]]
    assert phases[0] == "warmup"
    assert phases[-1] == "anneal"
    assert phases.count("anneal") == 1
    ratios = [r["ratio"] for r in result["rounds"][1:-1]]
    assert len(set(ratios)) > 1, "it adapts"
    assert all(0.19 < ratio <= 0.81 for ratio in ratios[:-1])
    explored = [one.explore for one in decision_log.read_all(settings.run).values()]
    assert explored[0] == 0
    assert all(0 < share <= 0.25 for share in explored[1:])
    number = len(ratios)
    provenance = IndexFile.open(Layout(settings.run).index(number)).provenance
    assert provenance["selection"]["explore"] == explored[-1]


def test_a_uniform_adaptive_run_needs_no_scoring(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    schedule = {"epochs": 3, "ratio": {"kind": "adaptive", "start": 0.5}}
    settings = run_config.parse(
        small_run(tmp_path / "run", shards, schedule=schedule, selection={"strategy": "uniform"})
    )
    run(settings, client=client)
    assert LossCatalog(settings.run).rounds() == []
    made = decision_log.read_all(settings.run)
    assert {one.rescore for one in made.values()} == {0.0}
    assert made[0].reasons["rescore"] == "nothing: the selection needs no losses"


def test_a_given_fraction_is_scored_and_the_run_resumes_with_it(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = run_config.parse(small_run(tmp_path / "run", shards, schedule__warmup_epochs=0))
    with pytest.raises(InputError, match=r"--fraction 0\.1 .* nothing was scored before: omit"):
        score(settings, client=client, fraction=0.1)
    score(settings, client=client)
    stages.train(settings, client=client)
    partial = score(settings, client=client, fraction=0.1)
    assert (partial.scored, partial.skipped) == (24, 216)
    assert score(settings, client=client, fraction=0.1).scored == 0
    with pytest.raises(InputError, match=r"--fraction 0\.2 differs from the decided share 0\.1"):
        score(settings, client=client, fraction=0.2)
    result = run(settings, client=client)
    assert [r["samples_scored"] for r in result["rounds"]] == [240, 24, 240]
    assert sorted(decision_log.read_all(settings.run)) == [1]


def test_a_round_is_not_decided_before_earlier_rounds_are_finished(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    settings = cheap(tmp_path / "run", shards, {"kind": "none"})
    with pytest.raises(
        MissingError, match=r"round 2 is decided from .* round 0 is not finished: run"
    ):
        score(settings, client=client, round_number=2)
    assert decision_log.read_all(settings.run) == {}


def test_a_damaged_decision_is_named(tmp_path: Path, shards: Path, client: Client) -> None:
    settings = cheap(tmp_path / "run", shards, {"kind": "none"})
    prepare(settings, cluster=lambda: client)
    storage.publish(Layout(settings.run).decision(1), b'{"round": 3}')
    with pytest.raises(
        InputError, match=r"decisions/00001\.json is not a valid decision .* delete it"
    ):
        prepare(settings, cluster=lambda: client)
