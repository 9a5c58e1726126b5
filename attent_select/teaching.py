"""select(): from the loss catalog to the teaching subset, exactly m rows.

Here: what surrounds one strategy (which rows are eligible, the budget, weights, probabilities).
Not here: the strategies (`strategies/`), the search for the cutoff (`top_m.py`), reading the
catalog or writing the index (`catalogs`).
"""

import math
import re
from dataclasses import dataclass
from typing import Final

import polars as pl

from attent_select import top_m
from attent_select.distribution import LossDistribution, bucket
from attent_select.errors import InputError
from attent_select.randomness import Purpose, stream_key, uniform
from attent_select.schema import INDEX, LOSS, PROBABILITY, ROW, SHARD_ID, WEIGHT, sample_key
from attent_select.strategy import Candidates, Outcome, Strategy

_COUNT: Final = "__count"
_BUCKET: Final = "__bucket"
_ELIGIBLE: Final = "__eligible"
_SUBQUERY: Final = re.compile(r"\b(select|from|table|values|with)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Preview:
    """What is known of a catalog without scanning it: makes a selection faster, never different.

    Attributes:
        total: rows of the catalog.
        rows: some of them, from many places, with the catalog's columns; a million are plenty.
    """

    total: int
    rows: pl.LazyFrame


@dataclass(frozen=True)
class Selection:
    """A teaching subset.

    Attributes:
        rows: schema `INDEX`, in the order of the input. Lazy: collecting it is the last scan.
        num_samples: m, the rows selected.
        total: rows of the catalog.
        eligible: rows that could have been selected; the others have no finite loss, or `where`
            excludes them.
        threshold: the smallest selected key (for `hard` a loss in nats); None if m is 0.
    """

    rows: pl.LazyFrame
    num_samples: int
    total: int
    eligible: int
    threshold: float | None


@dataclass(frozen=True)
class _Census:
    """One pass over the catalog: how many rows, and how the losses of the eligible ones lie."""

    total: int
    eligible: int
    losses: LossDistribution | None


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
    preview: Preview | None = None,
) -> Selection:
    """The teaching subset: exactly m rows with the largest keys of `strategy`.

    Ties are broken by sample_key. The same rows come out whatever the number of parts, threads or
    machines, in memory that does not grow with the catalog or with m.

    Args:
        losses: one row per sample with shard_id u32, row u32, and loss f32 (nats) unless the
            strategy needs none; more columns may stand beside them for `where`.
        strategy: from `attent_select.strategies`, or anything with that protocol.
        num_samples: m. Give either this or `ratio`.
        ratio: m as a share of all rows, in (0, 1].
        seed: of the run.
        round_number: each round draws anew.
        where: a polars SQL condition that eligible rows fulfil, such as `num_units > 10`.
        preview: saves passes over the catalog.

    Raises:
        InputError: a column is missing, `where` does not parse, or too few rows are eligible.
    """
    eligible = _eligible(losses, strategy=strategy, where=where)
    if strategy.needs_distribution or preview is None:
        census = _census(eligible, strategy=strategy)
    else:
        census = _Census(preview.total, preview.total, None)
    m = _budget(num_samples, ratio, total=census.total)
    if m == 0:
        return Selection(pl.LazyFrame(schema=INDEX), 0, census.total, census.eligible, None)
    top_m.check_enough(census.eligible, num_selected=m)
    candidates = Candidates(
        losses=census.losses,
        uniform=uniform(stream_key(seed, Purpose.SELECT, round_number), sample_key()),
    )
    pilot = None
    if preview is not None:
        some = _eligible(preview.rows, strategy=strategy, where=where)
        pilot = _pilot(some, strategy.key(candidates), census=census)
    keyed = _keyed(eligible, strategy.key(candidates))
    cut = top_m.cut(keyed, m, pilot=pilot)
    rows = _index_rows(keyed.filter(cut.last.includes()), strategy, candidates, cut, m)
    return Selection(rows, m, census.total, cut.num_rows, cut.last.key)


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
    group = bucket(pl.col(LOSS)) if strategy.needs_distribution else pl.lit(0, dtype=pl.UInt32)
    counts = (
        eligible.select(
            pl.when(_ELIGIBLE).then(group).alias(_BUCKET),
            # Counts are u64 sums: polars lengths are u32 and wrap beyond 2^32 rows.
            pl.lit(1, dtype=pl.UInt64).alias(_COUNT),
        )
        .group_by(_BUCKET)
        .agg(pl.col(_COUNT).sum())
        .collect(engine="streaming")
    )
    chosen = counts.filter(pl.col(_BUCKET).is_not_null())
    buckets, rows = chosen[_BUCKET].to_numpy(), chosen[_COUNT].to_numpy()
    losses = LossDistribution.from_buckets(buckets, rows) if strategy.needs_distribution else None
    return _Census(int(counts[_COUNT].sum()), int(chosen[_COUNT].sum()), losses)


def _budget(num_samples: int | None, ratio: float | None, *, total: int) -> int:
    if (num_samples is None) == (ratio is None):
        raise InputError("give either num_samples or ratio")
    if ratio is not None:
        return num_samples_of(ratio, total=total)
    assert num_samples is not None
    if num_samples < 0:
        raise InputError(f"num_samples: {num_samples} is negative")
    return num_samples


def _keyed(eligible: pl.LazyFrame, key: pl.Expr) -> pl.LazyFrame:
    return eligible.filter(_ELIGIBLE).with_columns(key.alias(top_m.KEY))


def _pilot(some: pl.LazyFrame, key: pl.Expr, *, census: _Census) -> top_m.Pilot:
    """The keys of the previewed rows, and how many rows of the catalog they stand for."""
    rows = some.with_columns(key.alias(top_m.KEY)).select(_ELIGIBLE, top_m.KEY).collect()
    keys = rows.filter(_ELIGIBLE)[top_m.KEY]
    if census.losses is not None:
        return top_m.Pilot.of(keys, num_rows=census.eligible)
    return top_m.Pilot.of(keys, num_rows=census.total * len(keys) // max(1, len(rows)))


def _index_rows(
    kept: pl.LazyFrame, strategy: Strategy, candidates: Candidates, cut: top_m.Cut, m: int
) -> pl.LazyFrame:
    """The selected rows in the schema of an index."""
    probability = pl.lit(1.0, dtype=pl.Float64)
    if cut.first_excluded is not None:
        outcome = Outcome(m, cut.num_rows, first_excluded=cut.first_excluded.key)
        probability = strategy.probability(candidates, outcome)
    return kept.select(
        pl.col(SHARD_ID).cast(INDEX[SHARD_ID]),
        pl.col(ROW).cast(INDEX[ROW]),
        pl.lit(1.0, dtype=pl.Float32).alias(WEIGHT),
        probability.cast(pl.Float32).alias(PROBABILITY),
    )
