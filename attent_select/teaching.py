"""select(): from the loss catalog to the teaching subset, exactly m rows.

Here: what surrounds one strategy (which rows are eligible, the budget, weights and probabilities).
Not here: the strategies (`strategies/`), the search for the cutoff (`top_m.py`), reading the
catalog or writing the index (`catalogs`).
"""

import math
import re
from dataclasses import dataclass
from typing import Final

import polars as pl

from attent_select import distribution, top_m
from attent_select.errors import InputError
from attent_select.randomness import Purpose, stream_key, uniform
from attent_select.schema import INDEX, LOSS, PROBABILITY, ROW, SHARD_ID, WEIGHT, sample_key
from attent_select.strategy import Candidates, Strategy

_BUCKET: Final = "__bucket"
_COUNT: Final = "__count"
_ELIGIBLE: Final = "__eligible"
_SUBQUERY: Final = re.compile(r"\b(select|from|table|values|with)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """A teaching subset.

    Attributes:
        rows: schema `INDEX`, in the order of the input. Lazy: collecting it is the last scan.
        num_samples: m, the rows selected.
        total: rows of the catalog.
        eligible: rows that could have been selected. without_loss: rows left out because their loss
        is null, NaN or infinite (0 for a strategy that
            needs no losses).
        threshold: the smallest selected key (for `hard` a loss in nats); None if nothing is
            selected.
    """

    rows: pl.LazyFrame
    num_samples: int
    total: int
    eligible: int
    without_loss: int
    threshold: float | None


@dataclass(frozen=True)
class _Census:
    total: int
    eligible: int
    without_loss: int
    losses: distribution.LossDistribution | None


def num_samples_of(ratio: float, *, total: int) -> int:
    """How many of `total` samples a ratio in (0, 1] stands for: rounded half up, at least 1."""
    if not 0 < ratio <= 1:
        raise InputError(f"ratio: {ratio} is outside (0, 1]")
    return min(total, max(1, math.floor(ratio * total + 0.5)))


def select(
    losses: pl.LazyFrame,
    *,
    strategy: Strategy,
    num_samples: int | None = None,
    ratio: float | None = None,
    seed: int = 0,
    round_number: int = 0,
    where: str | None = None,
) -> Selection:
    """The teaching subset: exactly m rows with the largest keys of `strategy`, ties by sample_key.

    The same rows come out whatever the number of parts, threads or machines.

    Args:
        losses: one row per sample with shard_id u32, row u32, and loss f32 (nats) unless the
            strategy
            needs none; more columns may stand beside them for `where`.
        strategy: from `attent_select.strategies`, or anything with that protocol.
        num_samples: m. Give either this or `ratio`.
        ratio: m as a share of all rows, in (0, 1].
        seed: of the run.
        round_number: each round draws anew.
        where: a polars SQL condition that eligible rows fulfil, such as `num_units > 10`.

    Raises:
        InputError: a column is missing, `where` does not parse, or fewer rows are eligible than
            asked.
    """
    if (num_samples is None) == (ratio is None):
        raise InputError("give either num_samples or ratio")
    eligible = _eligible(losses, strategy=strategy, where=where)
    census = _census(eligible, strategy=strategy)
    if num_samples is None:
        assert ratio is not None
        num_samples = num_samples_of(ratio, total=census.total)
    _check_budget(num_samples, census)
    candidates = Candidates(
        num_eligible=census.eligible,
        num_selected=num_samples,
        losses=census.losses,
        uniform=uniform(stream_key(seed, Purpose.SELECT, round_number), sample_key()),
    )
    rows, threshold = _cut(eligible, strategy, candidates)
    return Selection(
        rows=rows,
        num_samples=num_samples,
        total=census.total,
        eligible=census.eligible,
        without_loss=census.without_loss,
        threshold=threshold,
    )


def _eligible(losses: pl.LazyFrame, *, strategy: Strategy, where: str | None) -> pl.LazyFrame:
    """All rows, only the columns needed, with a boolean: may this row be selected?"""
    names = losses.collect_schema().names()
    needed = [SHARD_ID, ROW, LOSS] if strategy.needs_losses else [SHARD_ID, ROW]
    if missing := [name for name in needed if name not in names]:
        raise InputError(f"no column {', '.join(missing)}: the losses have {', '.join(names)}")
    condition = pl.lit(True) if where is None else _condition(losses, where)
    if strategy.needs_losses:
        losses = losses.with_columns(pl.col(LOSS).cast(pl.Float32))
        condition = condition & pl.col(LOSS).is_finite().fill_null(False)
    return losses.with_columns(condition.alias(_ELIGIBLE)).select(*needed, _ELIGIBLE)


def _condition(losses: pl.LazyFrame, where: str) -> pl.Expr:
    # A subquery could read any file of the machine (`IN (SELECT … FROM read_parquet('…'))`).
    if word := _SUBQUERY.search(where):
        raise InputError(f"where: {word.group()!r} is not allowed, only a condition on one row")
    try:
        condition = pl.sql_expr(where)
        dtype = losses.select(condition.alias(_ELIGIBLE)).collect_schema()[_ELIGIBLE]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"where: {where!r} is not a condition: {reason}") from error
    if dtype != pl.Boolean:
        raise InputError(f"where: {where!r} gives {dtype}, expected a condition (true or false)")
    return condition.fill_null(False)


def _census(eligible: pl.LazyFrame, *, strategy: Strategy) -> _Census:
    """One pass: how many rows there are, and the histogram of the losses that may be selected."""
    group = pl.when(_ELIGIBLE).then(
        distribution.bucket(pl.col(LOSS)) if strategy.needs_losses else pl.lit(0, dtype=pl.UInt32)
    )
    lost = (
        pl.col(LOSS).is_finite().fill_null(False).not_() if strategy.needs_losses else pl.lit(False)
    )
    counts = (
        eligible.select(
            group.alias(_BUCKET),
            # Counts are u64 sums: polars lengths are u32 and wrap beyond 2^32 rows.
            pl.lit(1, dtype=pl.UInt64).alias(_COUNT),
            lost.cast(pl.UInt64).alias("lost"),
        )
        .group_by(_BUCKET)
        .agg(pl.col(_COUNT).sum(), pl.col("lost").sum())
        .collect(engine="streaming")
    )
    chosen = counts.filter(pl.col(_BUCKET).is_not_null())
    return _Census(
        total=int(counts[_COUNT].sum()),
        eligible=int(chosen[_COUNT].sum()),
        without_loss=int(counts["lost"].sum()),
        losses=distribution.LossDistribution.from_buckets(
            chosen[_BUCKET].to_numpy(), chosen[_COUNT].to_numpy()
        )
        if strategy.needs_losses
        else None,
    )


def _check_budget(num_samples: int, census: _Census) -> None:
    if num_samples < 0:
        raise InputError(f"num_samples: {num_samples} is negative")
    if num_samples > census.eligible:
        lost = f", {census.without_loss} without a finite loss" if census.without_loss else ""
        raise InputError(
            f"{num_samples} samples asked for, but only {census.eligible} of {census.total} are "
            f"eligible{lost}: ask for at most {census.eligible}, or loosen `where`"
        )


def _cut(
    eligible: pl.LazyFrame, strategy: Strategy, candidates: Candidates
) -> tuple[pl.LazyFrame, float | None]:
    """The selected rows with weight and probability, and the smallest selected key."""
    m, n = candidates.num_selected, candidates.num_eligible
    empty = pl.LazyFrame(schema=INDEX)
    if m == 0:
        return empty, None
    ordered = top_m.with_order(eligible.filter(_ELIGIBLE), strategy.key(candidates))
    last, *excluded = top_m.positions(ordered, [m - 1] if m == n else [m - 1, m])
    probability = (
        strategy.probability(candidates, first_excluded=excluded[0].key)
        if excluded
        else pl.lit(1.0, dtype=pl.Float64)
    )
    rows = ordered.filter(last.includes()).select(
        pl.col(SHARD_ID).cast(INDEX[SHARD_ID]),
        pl.col(ROW).cast(INDEX[ROW]),
        pl.lit(1.0, dtype=pl.Float32).alias(WEIGHT),
        probability.cast(pl.Float32).alias(PROBABILITY),
    )
    return rows, last.key
