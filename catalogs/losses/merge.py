"""Old losses + losses scored anew + losses observed in training → the losses as of now. Pure.

Which of a row's losses counts, on frames of one range of shards; and which shards are made
anew.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.stats.quantile_map import QuantileMap, Trend

_KEY = [schema.SHARD_ID, schema.ROW]
# What a measurement says, the last only where it was asked for; the rest of a row stays.
_MEASURED = [
    schema.LOSS,
    schema.NUM_UNITS,
    schema.STATUS,
    schema.MEASURED_STEP,
    schema.ORIGIN,
    schema.FUNCTIONAL_GRADIENT,
]
# A snapshot may have so many more pieces than whole parts before all of it is made anew.
_SPARE_PIECES = 16


def merge_losses(
    old: pl.DataFrame,
    *,
    scored: pl.DataFrame,
    observed: pl.DataFrame,
    calibration: QuantileMap | Trend,
) -> pl.DataFrame:
    """`old` with every row as it was measured last.

    A row that was scored anew has that loss. Otherwise, one that was observed since it was
    measured has the last observed loss, calibrated: its origin is `observed`, its `measured_step`
    the step of that observation, and its functional gradient, which training does not measure,
    stays.

    Args:
        old: dense, sorted, with `schema.LOSSES` and perhaps more columns.
        scored: some of these rows with the same columns.
        observed: `schema.OBSERVED_LOSSES`, any of these rows, perhaps several times.
        calibration: from observed losses to the scale of scored ones.
    """
    return _updated(_updated(old, _seen(observed, calibration)), scored)


def unseen_losses(shards: range, num_samples: Sequence[int]) -> pl.DataFrame:
    """What is known of consecutive shards before anything was measured: `schema.LOSSES`."""
    rows = pl.DataFrame({schema.SHARD_ID: list(shards), "num": num_samples})
    rows = rows.select(schema.SHARD_ID, pl.int_ranges("num").alias(schema.ROW)).explode(schema.ROW)
    nothing: dict[str, Any] = {
        schema.LOSS: None,
        schema.NUM_UNITS: 0,
        schema.STATUS: schema.UNSEEN,
        schema.MEASURED_STEP: 0,
        schema.ORIGIN: schema.OBSERVED,
        schema.VISITS: 0,
    }
    values = (pl.lit(value).alias(name) for name, value in nothing.items())
    return rows.with_columns(values).cast(pl.Schema(schema.LOSSES)).select(list(schema.LOSSES))


def last_observations(observed: pl.LazyFrame) -> pl.LazyFrame:
    """The last observation of each row."""
    newest = pl.all().exclude(_KEY).sort_by("step").last()
    return observed.group_by(_KEY).agg(newest)


def shards_to_rebuild(
    parts: pl.Series, changed: Collection[int], *, ideal_ranges: int
) -> list[int]:
    """The shards whose losses go into new parts: the changed ones, or all.

    What is left of old parts and what is new are pieces that a scan reads one by one: where they
    would become far more than `ideal_ranges`, everything is written anew.

    Args:
        parts: the part of each shard, in shard order.
        changed: shards with a new loss.
        ideal_ranges: parts of a catalog that is made at once.
    """
    new = pl.int_range(len(parts), eager=True).is_in(list(changed))
    pieces = pl.DataFrame({"new": new, "part": parts}).select(
        pl.when("new").then(pl.lit("")).otherwise("part").rle_id().max() + 1
    )
    if pieces.item() > 2 * ideal_ranges + _SPARE_PIECES:
        return list(range(len(parts)))
    return sorted(changed)


def shard_ranges(shards: Collection[int], *, num_samples: list[int], most: int) -> Iterator[range]:
    """Consecutive shards as ranges of at most `most` samples, or of one shard."""
    found: range | None = None
    total = 0
    for shard_id in sorted(shards):
        total += num_samples[shard_id]
        if found is not None and (shard_id != found.stop or total > most):
            yield found
            found, total = None, num_samples[shard_id]
        found = range(shard_id if found is None else found.start, shard_id + 1)
    if found is not None:
        yield found


def _seen(observed: pl.DataFrame, calibration: QuantileMap | Trend) -> pl.DataFrame:
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


def _updated(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """`old` with what is measured in `new` at the same step or later."""
    renamed = {name: f"new {name}" for name in _MEASURED if name in new.columns}
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
