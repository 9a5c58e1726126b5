"""Radix search for the edge of a selection: counts digits of the keys, never sorts the rows.

Rows are ordered by two u64 words (larger key first, then smaller sample_key), 128 bits in all,
which the search descends 16 bits at a time. Each pass sums the costs of the rows per digit, among
the rows that share the digits found so far, for all strata at once, until the buckets that contain
the edges fit in memory and are sorted. All counts are exact, so ties, equal losses and skewed
shards need no special handling.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import sample_key
from attent_select.selection.chunks import Chunks, MappedChunks
from attent_select.selection.columns import COST, KEY, STRATUM
from attent_select.stats.elementwise import elementwise

_ORDER: Final = "__order"
_SAMPLE_KEY: Final = "__sample_key"
_HIGH: Final = "__high"
_LOW: Final = "__low"
_LEFT: Final = "__left"
_ROWS: Final = "__rows"
# Per stratum the bucket that contains its edge: the digits found so far of _ORDER and _SAMPLE_KEY,
# and how much of the budget is left at its beginning.
_BUCKETS: Final = {STRATUM: pl.UInt32, _HIGH: pl.UInt64, _LOW: pl.UInt64, _LEFT: pl.UInt64}

_DIGIT_BITS: Final = 16
_DIGITS_PER_WORD: Final = 64 // _DIGIT_BITS
_LEVELS: Final = 2 * _DIGITS_PER_WORD
# Buckets of at most this many rows in total are collected and sorted.
_MAX_EDGE_ROWS: Final = 1 << 20
# Rows of chunk results that are collected before they are merged.
_MAX_PENDING_ROWS: Final = 1 << 20
_SIGN: Final = 1 << 63

# (_ORDER, _SAMPLE_KEY) of a row, or None.
_Words = tuple[int, int] | None


@dataclass(frozen=True)
class RowPosition:
    """Position of a row in the order: larger key first, then smaller sample_key."""

    key: float
    sample_key: int


@dataclass(frozen=True)
class SelectionEdge:
    """Where a budget ends in the order of the rows.

    `last` is the last row within the budget, None if no row fits; `first_excluded` is the first row
    beyond it, None if all rows fit.
    """

    last: RowPosition | None
    first_excluded: RowPosition | None


def find_edges(keyed: Chunks, budgets: Mapping[int, int]) -> dict[int, SelectionEdge]:
    """Return the edge of each stratum.

    Args:
        keyed: rows with shard_id, row, KEY without NaN, COST u64 and STRATUM u32.
        budgets: stratum → largest sum of the costs of its leading rows.
    """
    ordered = MappedChunks(keyed, _with_order)
    buckets = pl.DataFrame(
        [(stratum, 0, 0, budget) for stratum, budget in budgets.items()],
        schema=_BUCKETS,
        orient="row",
    )
    for level in range(_LEVELS):
        counts = _count_digits(ordered, buckets, level=level)
        buckets = _buckets_at_edge(counts, buckets)
        if buckets[_ROWS].sum() <= _MAX_EDGE_ROWS or level == _LEVELS - 1:
            break
    rows = pl.concat(ordered.run(functools.partial(_collect, buckets=buckets, level=level + 1)))
    around = {stratum: _rows_around_edge(buckets, rows, stratum) for stratum in budgets}
    without_last = {stratum: first for stratum, (last, first) in around.items() if last is None}
    earlier = _last_rows_before(ordered, without_last) if without_last else {}
    return {
        stratum: SelectionEdge(_position(last or earlier.get(stratum)), _position(first))
        for stratum, (last, first) in around.items()
    }


def _with_order(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Add _ORDER and _SAMPLE_KEY (u64): ascending by both is descending by KEY."""
    order = elementwise(_order_of_key, pl.col(KEY).cast(pl.Float64), dtype=pl.UInt64)
    return rows.with_columns(order.alias(_ORDER), sample_key().alias(_SAMPLE_KEY))


def _order_of_key(key: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Return u64 numbers in the reverse order of the keys.

    The bit pattern of a float64, read as an integer, preserves the order of positive numbers and
    reverses that of negative ones. Adding 0.0 turns −0.0 into 0.0.
    """
    pattern = (key + 0.0).view(np.uint64)
    is_positive = pattern < np.uint64(_SIGN)
    return np.where(is_positive, np.uint64(_SIGN - 1) - pattern, pattern)


def _key_of_order(order: int) -> float:
    bits = order if order >= _SIGN else _SIGN - 1 - order
    return float(np.uint64(bits).view(np.float64))


def _position(words: _Words) -> RowPosition | None:
    return RowPosition(_key_of_order(words[0]), words[1]) if words else None


def _prefix(level: int) -> list[pl.Expr]:
    """Return the first `level` digits of a row as two numbers, _HIGH and _LOW."""
    return [
        _leading_digits(_ORDER, min(level, _DIGITS_PER_WORD)).alias(_HIGH),
        _leading_digits(_SAMPLE_KEY, max(0, level - _DIGITS_PER_WORD)).alias(_LOW),
    ]


def _leading_digits(word: str, count: int) -> pl.Expr:
    if count == 0:
        return _u64(0)
    shift = np.uint64(64 - _DIGIT_BITS * count)
    return elementwise(lambda value: value >> shift, pl.col(word), dtype=pl.UInt64)


def _in_buckets(ordered: pl.LazyFrame, buckets: pl.DataFrame, *, level: int) -> pl.LazyFrame:
    """Return the rows whose first `level` digits are those of the bucket of their stratum."""
    rows = ordered.with_columns(_prefix(level))
    if len(buckets) == 1:  # a comparison is faster than a join
        return rows.filter(pl.col(name) == buckets[name][0] for name in (STRATUM, _HIGH, _LOW))
    return rows.join(buckets.lazy(), on=[STRATUM, _HIGH, _LOW], how="semi")


def _count_digits(ordered: Chunks, buckets: pl.DataFrame, *, level: int) -> pl.DataFrame:
    """Return the cost and the rows per stratum and digit within the buckets, sorted; one pass."""
    count = functools.partial(_count_digits_of_chunk, buckets=buckets, level=level)
    return _merge_frames(ordered.run(count), _sum_counts).sort(STRATUM, _HIGH, _LOW)


def _count_digits_of_chunk(
    ordered: pl.LazyFrame, *, buckets: pl.DataFrame, level: int
) -> pl.DataFrame:
    rows = _in_buckets(ordered, buckets, level=level)
    # u64 sums: polars lengths and u32 sums wrap beyond 2^32 rows.
    ones = rows.select(STRATUM, *_prefix(level + 1), COST, _u64(1).alias(_ROWS))
    return _sum_counts(ones).collect()


def _sum_counts(counts: pl.LazyFrame) -> pl.LazyFrame:
    return counts.group_by(STRATUM, _HIGH, _LOW).agg(pl.col(COST).sum(), pl.col(_ROWS).sum())


def _buckets_at_edge(counts: pl.DataFrame, buckets: pl.DataFrame) -> pl.DataFrame:
    """Return per stratum the bucket in which its budget is exceeded, and the budget left there."""
    cost_so_far = pl.col(COST).cum_sum().over(STRATUM)
    return (
        counts.join(buckets.select(STRATUM, _LEFT), on=STRATUM, maintain_order="left")
        .with_columns(cost_so_far.alias("cost_so_far"))
        .filter(pl.col("cost_so_far") > pl.col(_LEFT))
        .group_by(STRATUM, maintain_order=True)
        .first()
        .with_columns((pl.col(_LEFT) - (pl.col("cost_so_far") - pl.col(COST))).alias(_LEFT))
        .select(*_BUCKETS, _ROWS)
    )


def _collect(ordered: pl.LazyFrame, *, buckets: pl.DataFrame, level: int) -> pl.DataFrame:
    """Collect the rows of the buckets, which are few enough to be sorted."""
    rows = _in_buckets(ordered, buckets, level=level)
    return rows.select(STRATUM, _ORDER, _SAMPLE_KEY, COST).collect()


def _rows_around_edge(
    buckets: pl.DataFrame, rows: pl.DataFrame, stratum: int
) -> tuple[_Words, _Words]:
    """Return the last row within the budget, if the bucket has it, and the first row beyond it."""
    left = buckets.filter(pl.col(STRATUM) == stratum)[_LEFT]
    if left.is_empty():  # all rows fit
        return None, None
    rows = rows.filter(pl.col(STRATUM) == stratum).sort(_ORDER, _SAMPLE_KEY)
    at = rows[COST].cum_sum().search_sorted(left[0], side="right")
    first = (rows[_ORDER][at], rows[_SAMPLE_KEY][at])
    return (rows[_ORDER][at - 1], rows[_SAMPLE_KEY][at - 1]) if at else None, first


def _last_rows_before(ordered: Chunks, first_excluded: Mapping[int, _Words]) -> dict[int, _Words]:
    """Return the last row of each stratum before a row (None: of all rows), in one pass."""
    bounds = pl.DataFrame(
        [(stratum, *(first or (None, None))) for stratum, first in first_excluded.items()],
        schema={STRATUM: pl.UInt32, _HIGH: pl.UInt64, _LOW: pl.UInt64},
        orient="row",
    )
    last_rows = ordered.run(functools.partial(_last_rows_of_chunk, bounds=bounds))
    merged = _merge_frames(last_rows, _last_rows)
    return {stratum: (order, key) for stratum, order, key in merged.iter_rows()}


def _last_rows_of_chunk(ordered: pl.LazyFrame, *, bounds: pl.DataFrame) -> pl.DataFrame:
    is_tied = (pl.col(_ORDER) == pl.col(_HIGH)) & (pl.col(_SAMPLE_KEY) < pl.col(_LOW))
    is_before = ((pl.col(_ORDER) < pl.col(_HIGH)) | is_tied).fill_null(True)
    rows = ordered.select(STRATUM, _ORDER, _SAMPLE_KEY).join(bounds.lazy(), on=STRATUM)
    return _last_rows(rows.filter(is_before)).collect()


def _last_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    is_last = pl.col(_ORDER) == pl.col(_ORDER).max()
    last = pl.col(_ORDER).max(), pl.col(_SAMPLE_KEY).filter(is_last).max()
    return rows.group_by(STRATUM).agg(last)


def _merge_frames(
    frames: Iterable[pl.DataFrame], merge: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> pl.DataFrame:
    """Apply `merge` to all frames as one, a few at a time: there may be thousands of them."""
    pending: list[pl.DataFrame] = []
    num_rows, limit = 0, _MAX_PENDING_ROWS
    for frame in frames:
        pending.append(frame)
        num_rows += len(frame)
        if num_rows > limit:
            pending = [merge(pl.concat(pending).lazy()).collect()]
            num_rows = len(pending[0])
            limit = max(_MAX_PENDING_ROWS, 2 * num_rows)
    return merge(pl.concat(pending).lazy()).collect()


def _u64(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)
