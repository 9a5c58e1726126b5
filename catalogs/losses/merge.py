"""Merge old losses with newly scored losses and losses observed in training. Pure."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.stats.quantile_map import QuantileMap, Trend

_KEY = [schema.SHARD_ID, schema.ROW]
# Columns that a measurement does not replace.
_KEPT = [*_KEY, schema.VISITS]
# Ranges that a snapshot may have beyond twice the ideal before everything is rebuilt.
_SPARE_RANGES = 16
_MAX_VISITS = (1 << 16) - 1


def merge_losses(
    old: pl.DataFrame,
    *,
    scored: pl.DataFrame,
    observed: pl.DataFrame,
    calibration: QuantileMap | Trend,
) -> pl.DataFrame:
    """Return `old` with the newest measurement of every row.

    A newly scored row has its new loss. Otherwise, a row that was observed since it was measured
    has the last observed loss, calibrated: its origin is `observed` and its `measured_step` the
    step of that observation. Other columns, which training does not measure, stay.

    Args:
        old: dense, sorted, with `schema.LOSSES` and optionally more columns.
        scored: some of these rows with the same columns.
        observed: `schema.OBSERVED_LOSSES`; a row may occur several times.
        calibration: maps observed losses to the scale of scored losses.
    """
    return _update(_update(old, _calibrate(observed, calibration)), scored)


def unseen_losses(shards: range, num_samples: Sequence[int]) -> pl.DataFrame:
    """Return `schema.LOSSES` of consecutive shards before anything was measured."""
    rows = pl.DataFrame({schema.SHARD_ID: list(shards), "num": num_samples})
    rows = rows.select(schema.SHARD_ID, pl.int_ranges("num").alias(schema.ROW)).explode(schema.ROW)
    defaults: dict[str, Any] = {
        schema.LOSS: None,
        schema.NUM_UNITS: 0,
        schema.STATUS: schema.UNSEEN,
        schema.MEASURED_STEP: 0,
        schema.ORIGIN: schema.OBSERVED,
        schema.VISITS: 0,
    }
    values = (pl.lit(value).alias(name) for name, value in defaults.items())
    return rows.with_columns(values).cast(pl.Schema(schema.LOSSES)).select(list(schema.LOSSES))


def last_observations(observed: pl.LazyFrame) -> pl.LazyFrame:
    """Return the last observation of each row."""
    newest = pl.all().exclude(_KEY).sort_by("step").last()
    return observed.group_by(_KEY).agg(newest)


def shards_to_rebuild(
    parts: pl.Series, changed: Collection[int], *, ideal_ranges: int
) -> list[int]:
    """Return the shards whose losses go into new parts: the changed ones, or all.

    A scan reads each shard range of a part separately. If there would be far more ranges than
    `ideal_ranges`, all shards are rebuilt.

    Args:
        parts: the part of each shard, in shard order.
        changed: shards with a new loss.
        ideal_ranges: the number of parts if all shards were written at once.
    """
    new = pl.int_range(len(parts), eager=True).is_in(list(changed))
    num_ranges = pl.DataFrame({"new": new, "part": parts}).select(
        pl.when("new").then(pl.lit("")).otherwise("part").rle_id().max() + 1
    )
    if num_ranges.item() > 2 * ideal_ranges + _SPARE_RANGES:
        return list(range(len(parts)))
    return sorted(changed)


def shard_ranges(shards: Collection[int], *, num_samples: list[int], most: int) -> Iterator[range]:
    """Yield ranges of consecutive shards, each of one shard or of at most `most` samples."""
    shard_range: range | None = None
    total = 0
    for shard_id in sorted(shards):
        total += num_samples[shard_id]
        if shard_range is not None and (shard_id != shard_range.stop or total > most):
            yield shard_range
            shard_range, total = None, num_samples[shard_id]
        shard_range = range(shard_id if shard_range is None else shard_range.start, shard_id + 1)
    if shard_range is not None:
        yield shard_range


def sum_visits(rows: pl.DataFrame, counts: Sequence[pl.LazyFrame]) -> pl.Series:
    """Return the visits of `rows` (shard_id, row), summed over `counts`."""
    if not counts:
        return pl.Series(schema.VISITS, [0], dtype=pl.UInt16).new_from_index(0, len(rows))
    visits = pl.col(schema.VISITS)
    total = pl.concat(counts).group_by(_KEY).agg(visits.cast(pl.UInt64).sum())
    joined = rows.lazy().select(_KEY).join(total, on=_KEY, how="left", maintain_order="left")
    clipped = visits.fill_null(0).clip(0, _MAX_VISITS).cast(pl.UInt16)
    return joined.select(clipped).collect()[schema.VISITS]


def _calibrate(observed: pl.DataFrame, calibration: QuantileMap | Trend) -> pl.DataFrame:
    last = last_observations(observed.lazy()).collect()
    losses = calibration(last[schema.LOSS].to_numpy(), last["step"].to_numpy())
    return last.select(
        *_KEY,
        pl.Series(schema.LOSS, losses, dtype=pl.Float32),
        pl.col(schema.NUM_UNITS),
        pl.lit(schema.OK).alias(schema.STATUS),
        pl.col("step").alias(schema.MEASURED_STEP),
        pl.lit(schema.OBSERVED).alias(schema.ORIGIN),
    )


def _update(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Replace measurements in `old` by those in `new` of the same or a later step."""
    renamed = {name: f"new {name}" for name in new.columns if name not in _KEPT}
    joined = old.join(
        new.select(*_KEY, *renamed).rename(renamed), on=_KEY, how="left", maintain_order="left"
    )
    step = pl.col(schema.MEASURED_STEP)
    is_newer = (pl.col(renamed[schema.MEASURED_STEP]) >= step).fill_null(value=False)
    return joined.select(
        pl.when(is_newer).then(renamed[name]).otherwise(name).alias(name)
        if name in renamed
        else pl.col(name)
        for name in old.columns
    )
