"""Merging of old losses, newly scored losses and losses observed in training."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import schema
from attent_select.stats.quantile_map import QuantileMap
from catalogs import Corpus, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import merge
from catalogs.losses.catalog import PartSummary
from catalogs.shard_format import Shard

# Halves what is observed: knots far apart, so that the map is a straight line.
HALF = QuantileMap((0.0, 100.0), (0.0, 50.0))
COUNTS = [4, 3, 5]


def scored(shard_id: int, losses: list[float | None], *, step: int) -> pl.DataFrame:
    """Rows 0, 1, … of a shard; None is unreadable."""
    table = pl.DataFrame({"loss": pl.Series(losses, dtype=pl.Float32)}).with_columns(
        shard_id=pl.lit(shard_id),
        row=pl.int_range(pl.len()),
        num_units=pl.lit(1),
        status=pl.when(pl.col("loss").is_null()).then(pl.lit("unreadable")).otherwise(pl.lit("ok")),
        measured_step=pl.lit(step),
        origin=pl.lit("scored"),
        visits=pl.lit(0),
    )
    return table.select(pl.col(name).cast(kind) for name, kind in schema.LOSSES.items())


def observed(rows: list[tuple[int, int, float, int]]) -> pl.DataFrame:
    """(shard, row, loss, step)."""
    table = pl.DataFrame(rows, schema=["shard_id", "row", "loss", "step"], orient="row")
    kinds = schema.OBSERVED_LOSSES
    return table.with_columns(num_units=1).select(pl.col(n).cast(kind) for n, kind in kinds.items())


def test_the_newest_measurement_of_each_row_is_used_and_observed_losses_are_calibrated() -> None:
    old = scored(0, [1.0, 2.0, 3.0, None], step=10)
    seen = observed([(0, 1, 8.0, 12), (0, 1, 6.0, 15), (0, 2, 4.0, 11), (0, 3, 2.0, 13)])
    new = scored(0, [1.5, 2.5, 3.5], step=20).filter(pl.col("row") != 1)
    rows = merge.merge_losses(old, scored=new, observed=seen, calibration=HALF)
    assert rows.schema == old.schema
    assert rows.select("row", "loss", "status", "measured_step", "origin").rows() == [
        (0, 1.5, "ok", 20, "scored"),
        (1, 3.0, "ok", 15, "observed"),
        (2, 3.5, "ok", 20, "scored"),
        (3, 1.0, "ok", 13, "observed"),
    ]


def test_a_functional_gradient_is_as_old_as_the_last_scoring_of_its_row() -> None:
    gradient = pl.Series("functional_gradient", [0.1, 0.2, 0.3], dtype=pl.Float32)
    old = scored(0, [1.0, 2.0, 3.0], step=10).with_columns(gradient)
    new = scored(0, [1.5, 2.5, 3.5], step=20).with_columns(gradient + 1).filter(pl.col("row") == 0)
    seen = observed([(0, 1, 8.0, 12)])
    rows = merge.merge_losses(old, scored=new, observed=seen, calibration=HALF)
    assert rows.schema == old.schema
    assert rows["loss"].to_list() == [1.5, 4.0, 3.0]
    assert rows["functional_gradient"].to_list() == pytest.approx([1.1, 0.2, 0.3])


def test_a_row_that_can_no_longer_be_scored_loses_its_loss() -> None:
    old = scored(0, [1.0, 2.0], step=10)
    rows = merge.merge_losses(
        old, scored=scored(0, [None], step=20), observed=observed([]), calibration=HALF
    )
    assert rows.select("loss", "status").rows() == [(None, "unreadable"), (2.0, "ok")]


def test_observations_from_before_the_last_measurement_are_ignored() -> None:
    old = scored(0, [1.0], step=10)
    rows = merge.merge_losses(
        old, scored=old.clear(), observed=observed([(0, 0, 9.0, 9)]), calibration=HALF
    )
    assert rows.equals(old)


@given(st.sets(st.integers(0, 29)), st.lists(st.integers(1, 9), min_size=30, max_size=30))
def test_shard_ranges_are_consecutive_and_of_bounded_size(
    shards: set[int], num_samples: list[int]
) -> None:
    ranges = list(merge.shard_ranges(shards, num_samples=num_samples, most=12))
    assert [shard for shard_range in ranges for shard in shard_range] == sorted(shards)
    assert all(
        len(shard_range) == 1 or sum(num_samples[s] for s in shard_range) <= 12
        for shard_range in ranges
    )


def test_a_catalog_with_too_many_ranges_is_rebuilt() -> None:
    one = pl.Series(["a"] * 1000)
    assert merge.shards_to_rebuild(one, {3, 4, 700}, ideal_ranges=1) == [3, 4, 700]
    assert merge.shards_to_rebuild(one, set(), ideal_ranges=1) == []
    scattered = set(range(0, 1000, 10))
    assert merge.shards_to_rebuild(one, scattered, ideal_ranges=1) == list(range(1000))
    assert merge.shards_to_rebuild(one, scattered, ideal_ranges=100) == sorted(scattered)


@pytest.fixture
def catalog(tmp_path: Path) -> LossCatalog:
    """Three shards, scored for round 0 at step 0, all in one part."""
    shards = (
        Shard(shard_id, f"/d/{shard_id}.parquet", "parquet", count, 10, "e")
        for shard_id, count in enumerate(COUNTS)
    )
    Corpus(shards=tuple(shards), columns=("label",)).save(str(tmp_path))
    catalog = LossCatalog(str(tmp_path))
    for shard_id, count in enumerate(COUNTS):
        catalog.write_span(str(shard_id), scored(shard_id, [10.0 + shard_id] * count, step=0))
    part = catalog.compact(["0", "1", "2"], round_number=0)
    catalog.publish(0, [part], provenance={"measured_step": 0})
    return catalog


def fold(catalog: LossCatalog, shards: range, *spans: str) -> PartSummary:
    return catalog.merge(shards, since=0, round_number=1, spans=spans, calibration=HALF)


def test_a_partial_round_is_one_dense_scan_and_unchanged_shards_keep_their_part(
    catalog: LossCatalog,
) -> None:
    catalog.write_observed(0, "steps", observed([(1, 0, 4.0, 3), (1, 2, 6.0, 4), (1, 2, 8.0, 5)]))
    catalog.write_span("new", scored(1, [1.0, 2.0], step=6))
    part = fold(catalog, range(1, 2), "new")
    catalog.publish(1, [part], provenance={"measured_step": 6}, keep=0)
    before, after = catalog.snapshot(0), catalog.snapshot(1)
    assert before is not None
    assert after is not None
    assert after["part"].to_list() == [before["part"][0], part.part, before["part"][2]]
    rows = catalog.latest(1).collect()
    assert len(rows) == sum(COUNTS)
    shard = rows.filter(pl.col("shard_id") == 1)
    assert shard.select("loss", "measured_step", "origin", "visits").rows() == [
        (1.0, 6, "scored", 1),
        (2.0, 6, "scored", 0),
        (4.0, 5, "observed", 2),
    ]
    assert rows.filter(pl.col("shard_id") != 1)["loss"].unique().sort().to_list() == [10.0, 12.0]
    assert catalog.span_digests() == set()


def test_merging_is_idempotent_and_independent_of_the_shard_ranges(
    catalog: LossCatalog,
) -> None:
    catalog.write_observed(0, "steps", observed([(0, 3, 4.0, 3), (2, 2, 6.0, 4)]))
    catalog.write_span("new", scored(2, [1.0, 2.0], step=6))
    whole = fold(catalog, range(3), "new")
    assert fold(catalog, range(3), "new") == whole
    catalog.publish(1, [whole], provenance={}, keep=0)
    digest = catalog.digest(1)
    Path(Layout(catalog.run).snapshot(1)).unlink()
    catalog.write_span("new", scored(2, [1.0, 2.0], step=6))
    pieces = [fold(catalog, range(1)), fold(catalog, range(2, 3), "new")]
    catalog.publish(1, pieces, provenance={}, keep=0)
    assert catalog.digest(1) == digest
