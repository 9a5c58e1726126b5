"""Finds cuts in the order of a LazyFrame's rows by counting digits, never by sorting it.

The order of rows (larger key first, then smaller sample_key) as two u64 columns, and a radix
descent over their 128 bits, 16 at a time. Each pass sums the rows' costs per digit among those
that share the digits found so far, for all strata at once, until the buckets that hold the cuts
fit in memory and are sorted. Every step is an exact count, so ties, equal losses and skewed
shards need no care.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import sample_key
from attent_select.selection.chunks import Chunks
from attent_select.stats.elementwise import elementwise

ORDER: Final = "__order"
SAMPLE_KEY: Final = "__sample_key"
# What a row uses of its stratum's budget (u64), and which stratum it is in (u32).
COST: Final = "__cost"
STRATUM: Final = "__stratum"

_DIGIT_BITS: Final = 16
_DIGITS_PER_WORD: Final = 64 // _DIGIT_BITS
_LEVELS: Final = 2 * _DIGITS_PER_WORD
# Buckets of at most this many rows in all are collected and sorted.
_EDGE_ROWS: Final = 1 << 20
# So many rows of the chunks' counts wait to be added up.
_WAITING_ROWS: Final = 1 << 20
_ROWS: Final = "__rows"
_SIGN: Final = 1 << 63

# (ORDER, SAMPLE_KEY) of a row, if there is one.
Place = tuple[int, int] | None


@dataclass(frozen=True)
class Boundary:
    """Where a stratum's budget ends: the last row within it and the first row beyond it.

    Both are (key, sample_key); `last` is None if the budget is smaller than the first row's cost,
    `first_excluded` is None if all rows fit.
    """

    last: tuple[float, int] | None
    first_excluded: tuple[float, int] | None


def with_order(rows: pl.LazyFrame, *, key: str) -> pl.LazyFrame:
    """Adds ORDER and SAMPLE_KEY (u64): ascending by both is descending by the column `key`.

    `key` is float64 without NaN.
    """
    order = elementwise(_order, pl.col(key), dtype=pl.UInt64)
    return rows.with_columns(order.alias(ORDER), sample_key().alias(SAMPLE_KEY))


def boundaries(ordered: Chunks, budgets: Mapping[int, int]) -> dict[int, Boundary]:
    """Where each stratum's budget ends, in the order of its rows.

    Args:
        ordered: ORDER and SAMPLE_KEY from `with_order`, COST u64, STRATUM u32.
        budgets: stratum → the sum of costs that its leading rows may reach.
    """
    active = pl.DataFrame(
        [(stratum, 0, 0, budget) for stratum, budget in budgets.items()],
        schema=_ACTIVE,
        orient="row",
    )
    for level in range(_LEVELS):
        counts = _counts(ordered, active, level=level)
        active = _crossing(counts, active)
        if active[_ROWS].sum() <= _EDGE_ROWS or level == _LEVELS - 1:
            break
    edges = ordered.run(functools.partial(_edge, active=active, level=level + 1))
    edge = pl.concat(edges)
    around = {stratum: _around(active, edge, stratum) for stratum in budgets}
    lacking = {stratum: first for stratum, (last, first) in around.items() if last is None}
    lasts = _last_before(ordered, lacking) if lacking else {}
    return {
        stratum: Boundary(_with_key(last or lasts.get(stratum)), _with_key(first))
        for stratum, (last, first) in around.items()
    }


def _order(key: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """The pattern of a float64 read as an integer keeps its order for positive numbers and
    reverses it for negative ones; −0.0 + 0.0 is 0.0.
    """
    pattern = (key + 0.0).view(np.uint64)
    positive = pattern < np.uint64(_SIGN)
    return np.where(positive, np.uint64(_SIGN - 1) - pattern, pattern)


_HIGH: Final = "__high"
_LOW: Final = "__low"
_LEFT: Final = "__left"
_ACTIVE: Final = {STRATUM: pl.UInt32, _HIGH: pl.UInt64, _LOW: pl.UInt64, _LEFT: pl.UInt64}


def _prefix(level: int) -> list[pl.Expr]:
    """The first `level` digits of a row, as two numbers: those of ORDER, those of SAMPLE_KEY."""
    return [
        _leading(ORDER, min(level, _DIGITS_PER_WORD)).alias(_HIGH),
        _leading(SAMPLE_KEY, max(0, level - _DIGITS_PER_WORD)).alias(_LOW),
    ]


def _leading(word: str, num_digits: int) -> pl.Expr:
    if num_digits == 0:
        return _u64(0)
    shift = np.uint64(64 - _DIGIT_BITS * num_digits)
    return elementwise(lambda value: value >> shift, pl.col(word), dtype=pl.UInt64)


def _inside(ordered: pl.LazyFrame, active: pl.DataFrame, *, level: int) -> pl.LazyFrame:
    """The rows whose first `level` digits are those of their stratum's bucket."""
    rows = ordered.with_columns(_prefix(level))
    if len(active) == 1:  # a comparison is quicker than a join
        return rows.filter(pl.col(name) == active[name][0] for name in (STRATUM, _HIGH, _LOW))
    return rows.join(active.lazy(), on=[STRATUM, _HIGH, _LOW], how="semi")


def _counts(ordered: Chunks, active: pl.DataFrame, *, level: int) -> pl.DataFrame:
    """One pass: cost and rows per stratum and digit of the buckets, in order."""
    found = ordered.run(functools.partial(_counts_of_chunk, active=active, level=level))
    return _folded(found, _summed).sort(STRATUM, _HIGH, _LOW)


def _counts_of_chunk(ordered: pl.LazyFrame, *, active: pl.DataFrame, level: int) -> pl.DataFrame:
    rows = _inside(ordered, active, level=level)
    # u64 sums: polars lengths and u32 sums wrap beyond 2^32 rows.
    return _summed(rows.select(STRATUM, *_prefix(level + 1), COST, _u64(1).alias(_ROWS))).collect()


def _summed(counts: pl.LazyFrame) -> pl.LazyFrame:
    return counts.group_by(STRATUM, _HIGH, _LOW).agg(pl.col(COST).sum(), pl.col(_ROWS).sum())


def _edge(ordered: pl.LazyFrame, *, active: pl.DataFrame, level: int) -> pl.DataFrame:
    """The rows of the buckets, few enough to be sorted."""
    rows = _inside(ordered, active, level=level)
    return rows.select(STRATUM, ORDER, SAMPLE_KEY, COST).collect()


def _crossing(counts: pl.DataFrame, active: pl.DataFrame) -> pl.DataFrame:
    """Per stratum the bucket in which its budget is exceeded, and what is left of it there."""
    reached = pl.col(COST).cum_sum().over(STRATUM)
    return (
        counts.join(active.select(STRATUM, _LEFT), on=STRATUM, maintain_order="left")
        .with_columns(reached.alias("reached"))
        .filter(pl.col("reached") > pl.col(_LEFT))
        .group_by(STRATUM, maintain_order=True)
        .first()
        .with_columns((pl.col(_LEFT) - (pl.col("reached") - pl.col(COST))).alias(_LEFT))
        .select(*_ACTIVE, _ROWS)
    )


def _around(active: pl.DataFrame, edge: pl.DataFrame, stratum: int) -> tuple[Place, Place]:
    """The last row of a stratum within its budget, as far as its bucket has it, and the first one
    beyond it (None: all fit).
    """
    left = active.filter(pl.col(STRATUM) == stratum)[_LEFT]
    if left.is_empty():
        return None, None
    rows = edge.filter(pl.col(STRATUM) == stratum).sort(ORDER, SAMPLE_KEY)
    at = rows[COST].cum_sum().search_sorted(left[0], side="right")
    first = (rows[ORDER][at], rows[SAMPLE_KEY][at])
    return (rows[ORDER][at - 1], rows[SAMPLE_KEY][at - 1]) if at else None, first


def _last_before(ordered: Chunks, firsts: Mapping[int, Place]) -> dict[int, Place]:
    """One pass: the last row of each stratum before the given one (None: of all its rows)."""
    bounds = pl.DataFrame(
        [(stratum, *(first or (None, None))) for stratum, first in firsts.items()],
        schema={STRATUM: pl.UInt32, _HIGH: pl.UInt64, _LOW: pl.UInt64},
        orient="row",
    )
    found = ordered.run(functools.partial(_last_of_chunk, bounds=bounds))
    return {stratum: (order, key) for stratum, order, key in _folded(found, _last_rows).iter_rows()}


def _last_of_chunk(ordered: pl.LazyFrame, *, bounds: pl.DataFrame) -> pl.DataFrame:
    tied = (pl.col(ORDER) == pl.col(_HIGH)) & (pl.col(SAMPLE_KEY) < pl.col(_LOW))
    is_before = ((pl.col(ORDER) < pl.col(_HIGH)) | tied).fill_null(True)
    rows = ordered.select(STRATUM, ORDER, SAMPLE_KEY).join(bounds.lazy(), on=STRATUM)
    return _last_rows(rows.filter(is_before)).collect()


def _last_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    is_last = pl.col(ORDER) == pl.col(ORDER).max()
    last = pl.col(ORDER).max(), pl.col(SAMPLE_KEY).filter(is_last).max()
    return rows.group_by(STRATUM).agg(last)


def _folded(
    found: Iterable[pl.DataFrame], merge: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> pl.DataFrame:
    """`merge` of all frames in one, a few at a time: there may be thousands of them."""
    waiting: list[pl.DataFrame] = []
    num_rows, most = 0, _WAITING_ROWS
    for frame in found:
        waiting.append(frame)
        num_rows += len(frame)
        if num_rows > most:
            waiting = [merge(pl.concat(waiting).lazy()).collect()]
            num_rows = len(waiting[0])
            most = max(_WAITING_ROWS, 2 * num_rows)
    return merge(pl.concat(waiting).lazy()).collect()


def _with_key(place: Place) -> tuple[float, int] | None:
    return (_key_of(place[0]), place[1]) if place else None


def _key_of(order: int) -> float:
    bits = order if order >= _SIGN else _SIGN - 1 - order
    return float(np.uint64(bits).view(np.float64))


def _u64(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)
