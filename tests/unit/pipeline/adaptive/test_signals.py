"""Signals before a round and calibration of observed losses, on small catalogs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from attent_select import schema
from attent_select.schedule.adaptive import Signals
from attent_select.schedule.rounds import Round
from catalogs import Corpus, LossCatalog
from catalogs.layout import Layout
from catalogs.shard_format import Shard
from pipeline.adaptive.signals import measure
from pipeline.scoring.calibration import fit_calibration

NUM_SHARDS, ROWS, STEPS = 4, 50, 10
DRAWN = np.random.default_rng(0).gamma(2, 1, NUM_SHARDS * ROWS)


@pytest.fixture
def catalog(tmp_path: Path) -> LossCatalog:
    """A catalog for a corpus of four shards with fifty rows each."""
    shards = tuple(Shard(s, f"/d/{s}.parquet", "parquet", ROWS, 10, "e") for s in range(NUM_SHARDS))
    Corpus(shards=shards, columns=("label",)).save(str(tmp_path))
    return LossCatalog(str(tmp_path))


def table(losses: np.ndarray, shards: list[int], **columns: Any) -> pl.DataFrame:
    rows = pl.DataFrame({"position": range(NUM_SHARDS * ROWS), "loss": losses}).with_columns(
        shard_id=pl.col("position") // ROWS, row=pl.col("position") % ROWS, num_units=1
    )
    return rows.filter(pl.col("shard_id").is_in(shards)).with_columns(
        pl.lit(value).alias(name) for name, value in columns.items()
    )


def score(catalog: LossCatalog, number: int, losses: np.ndarray, shards: list[int]) -> None:
    """Score these shards for a round that starts at step 10 · number; the others keep theirs."""
    step = STEPS * number
    rows = table(losses, shards, status="ok", measured_step=step, origin="scored", visits=0)
    for shard_id in shards:
        catalog.write_span(f"{shard_id}", rows.filter(shard_id=shard_id).select(*schema.LOSSES))
    parts = [catalog.compact([f"{shard_id}"], round_number=number) for shard_id in shards]
    keep = number - 1 if len(shards) < NUM_SHARDS else None
    catalog.publish(number, parts, provenance={"measured_step": step}, keep=keep)


def observe(catalog: LossCatalog, number: int, losses: np.ndarray, shards: list[int]) -> None:
    """Observe ten rows in each step of a round."""
    rows = table(losses, shards).with_columns(
        step=STEPS * number + pl.int_range(pl.len()) * STEPS // pl.len()
    )
    catalog.write_observed(number, "steps", rows.select(*schema.OBSERVED_LOSSES))


def rounds(number: int) -> list[Round]:
    return [Round(n, "teach", 0.5, 100, 1, STEPS * n, STEPS) for n in range(number)]


def signals(catalog: LossCatalog, number: int, **settings: Any) -> Signals:
    metrics = {n: {"samples_seen": 100.0} for n in range(number)}
    defaults: dict[str, Any] = {"metrics": metrics, "last": Signals()}
    return measure(catalog, before=rounds(number), **defaults | settings)


def test_without_scoring_there_are_no_signals(catalog: LossCatalog) -> None:
    assert signals(catalog, 0) == Signals()


def test_drift_and_gain_are_measured_on_rows_scored_twice(
    catalog: LossCatalog,
) -> None:
    score(catalog, 0, DRAWN, [0, 1, 2, 3])
    assert signals(catalog, 1).drift is None
    score(catalog, 1, DRAWN - 0.5, [1])
    found = signals(catalog, 2)
    assert found.is_scored
    old = DRAWN[ROWS : 2 * ROWS].astype(np.float32)
    gaps = [np.abs((old <= x).mean() - (old - 0.5 <= x).mean()) for x in [*old, *(old - 0.5)]]
    assert found.drift == pytest.approx(max(gaps), abs=0.021)
    assert found.gain == pytest.approx(0.5 / 100)
    unchanged = signals(catalog, 1, last=Signals(drift=0.3, agreement=0.2, gain=7.0))
    assert (unchanged.drift, unchanged.agreement) == (0.3, 0.2), "the newest that is known"
    assert (unchanged.gain, unchanged.gain_before) == (None, 7.0)


def test_with_evaluation_the_gain_is_that_of_the_held_out_loss(catalog: LossCatalog) -> None:
    score(catalog, 0, DRAWN, [0, 1, 2, 3])
    score(catalog, 1, DRAWN - 0.5, [1])
    metrics = {
        0: {"samples_seen": 100.0, "eval_loss": 2.0},
        1: {"samples_seen": 200.0, "eval_loss": 1.6},
    }
    assert signals(catalog, 2, metrics=metrics).gain == pytest.approx(0.4 / 200)


def test_agreement_is_measured_on_rows_observed_since_they_were_scored(
    catalog: LossCatalog,
) -> None:
    score(catalog, 0, DRAWN, [0, 1, 2, 3])
    observe(catalog, 0, 2 * DRAWN + 1, [0, 2])
    found = signals(catalog, 1)
    assert found.agreement == pytest.approx(1)
    assert found.covered == 0.5
    score(catalog, 1, -DRAWN + 20, [2])
    observe(catalog, 1, DRAWN, [2, 3])
    found = signals(catalog, 2)
    assert found.agreement == pytest.approx(-1), "shard 3 was not scored for this round"


def test_removed_parts_give_no_drift(catalog: LossCatalog) -> None:
    score(catalog, 0, DRAWN, [0, 1, 2, 3])
    parts = list(Path(Layout(catalog.run).parts).iterdir())
    score(catalog, 1, DRAWN - 0.5, [0, 1, 2, 3])
    for part in parts:
        part.unlink()
    assert signals(catalog, 2).drift is None


def test_calibration_uses_the_best_rows_available(catalog: LossCatalog) -> None:
    def found(number: int, *spans: str) -> tuple[str, float]:
        made = fit_calibration(catalog, since=number - 1, round_number=number, spans=spans)
        return made.source, float(made.quantiles(np.array([3.0]))[0])

    score(catalog, 0, DRAWN, [0, 1, 2, 3])
    assert found(1) == ("none: too few rows have both losses, they are as observed", 3.0)
    # At the beginning of the round the model was the one that scored; later it has learned.
    learned = np.where(np.arange(200) % 200 < 40, 2 * DRAWN, DRAWN / 2)
    observe(catalog, 0, learned, [0, 1, 2, 3])
    assert found(1) == ("the beginning of round 0", pytest.approx(1.5, abs=0.01))
    score(catalog, 1, DRAWN - 0.1, [0, 1, 2, 3])
    observe(catalog, 1, DRAWN, [1])
    source, value = found(2)
    assert source == "scored for round 1"
    assert value > 3
    new = table(DRAWN - 1, [1], status="ok", measured_step=20, origin="scored", visits=0)
    catalog.write_span("new", new.select(*schema.LOSSES))
    assert found(2, "new") == ("scored for this round", pytest.approx(2.0, abs=0.05))
    made = fit_calibration(catalog, since=1, round_number=2, spans=["new"])
    part = catalog.merge(
        range(1, 2), since=1, round_number=2, spans=["new"], calibration=made.quantiles
    )
    provenance = {"measured_step": 20, "calibration": made.to_dict()}
    catalog.publish(2, [part], provenance=provenance, keep=1)
    assert found(3) == ("the map of the round before", pytest.approx(2.0, abs=0.05))
