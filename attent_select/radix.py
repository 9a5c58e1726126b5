"""Finds given ranks in the order of a LazyFrame's rows by counting digits, never by sorting it.

Here: the order of rows (larger key first, then smaller sample_key) as two u64 columns, and a radix
descent over their 128 bits, 16 at a time: each pass counts the rows per digit among those that
share the digits found so far, until the bucket that holds the rank fits in memory and is sorted.
Every step is an exact count, so ties, equal losses and skewed shards need no care. Not here: the
quicker guess that usually makes this unnecessary (`top_m.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from attent_select.schema import sample_key

ORDER: Final = "__order"
SAMPLE_KEY: Final = "__sample_key"

_DIGIT_BITS: Final = 16
_LEVELS: Final = 128 // _DIGIT_BITS
# A bucket of at most this many rows (16 bytes each) is collected and sorted.
_EDGE_ROWS: Final = 1 << 20
_SIGN: Final = 1 << 63


def with_order(rows: pl.LazyFrame, key: pl.Expr) -> pl.LazyFrame:
    """Adds ORDER and SAMPLE_KEY (u64): ascending by both is descending by `key` (float64).

    The pattern of a float64 read as an integer keeps its order for positive numbers and reverses it
    for negative ones; −0.0 is made 0.0 first. A NaN key is not allowed.
    """
    # Not by adding 0.0: polars optimises that away.
    pattern = pl.when(key == 0.0).then(0.0).otherwise(key).reinterpret(dtype=pl.UInt64)
    order = pl.when(pattern < _u64(_SIGN)).then(_u64(_SIGN - 1) - pattern).otherwise(pattern)
    # Materialised before any filter or aggregate: inline in `filter` it costs several times the
    # CPU.
    return rows.with_columns(order.alias(ORDER), sample_key().alias(SAMPLE_KEY))


def positions(ordered: pl.LazyFrame, ranks: Sequence[int]) -> list[tuple[float, int]]:
    """(key, sample_key) of the rows with these ranks (0-based) in the order.

    Args:
        ordered: has the columns ORDER and SAMPLE_KEY, from `with_order`.
        ranks: each ≥ 0 and below the number of rows.
    """
    found: dict[int, tuple[int, int]] = {}
    _descend(
        ordered.select(ORDER, SAMPLE_KEY), _Bucket(0, 0), {rank: rank for rank in ranks}, found
    )
    return [(_key_of(found[rank][0]), found[rank][1]) for rank in ranks]


@dataclass(frozen=True)
class _Bucket:
    """The rows whose first `level` digits are those of `prefix`."""

    prefix: int
    level: int

    def _digits(self, level: int) -> pl.Expr:
        """The leading digits of the word that digit `level - 1` is in."""
        word, used = (ORDER, level) if level <= _LEVELS // 2 else (SAMPLE_KEY, level - _LEVELS // 2)
        return pl.col(word) // _u64(1 << (64 - _DIGIT_BITS * used))

    def holds(self) -> pl.Expr:
        if self.level == 0:
            return pl.lit(True)
        if self.level <= _LEVELS // 2:
            return self._digits(self.level) == _u64(self.prefix)
        low_bits = _DIGIT_BITS * (self.level - _LEVELS // 2)
        high, low = divmod(self.prefix, 1 << low_bits)
        return (pl.col(ORDER) == _u64(high)) & (self._digits(self.level) == _u64(low))

    def next_digit(self) -> pl.Expr:
        return self._digits(self.level + 1) % _u64(1 << _DIGIT_BITS)

    def child(self, digit: int) -> "_Bucket":
        return _Bucket((self.prefix << _DIGIT_BITS) | digit, self.level + 1)


def _descend(
    ordered: pl.LazyFrame, bucket: _Bucket, ranks: dict[int, int], found: dict[int, tuple[int, int]]
) -> None:
    """Find `ranks` (rank in the whole order → rank within the bucket) and put them into `found`."""
    rows = ordered.filter(bucket.holds())
    for digit, count, inside in _split(rows, bucket, ranks):
        child = bucket.child(digit)
        if child.level == _LEVELS:
            high, low = divmod(child.prefix, 1 << 64)
            found.update(dict.fromkeys(inside, (high, low)))
        elif count > _EDGE_ROWS:
            _descend(ordered, child, inside, found)
        else:
            edge = ordered.filter(child.holds()).collect(engine="streaming").sort(ORDER, SAMPLE_KEY)
            for rank, local in inside.items():
                found[rank] = (edge[ORDER][local], edge[SAMPLE_KEY][local])


def _split(
    rows: pl.LazyFrame, bucket: _Bucket, ranks: dict[int, int]
) -> Iterator[tuple[int, int, dict[int, int]]]:
    """One counting pass: the digits that hold a rank, their row counts, the ranks within."""
    # Counted by a u64 sum: polars lengths are u32 and wrap beyond 2^32 rows.
    counts = (
        rows.select(bucket.next_digit().alias("digit"), _u64(1).alias("count"))
        .group_by("digit")
        .agg(pl.col("count").sum())
        .collect(engine="streaming")
        .sort("digit")
    )
    before = 0
    for digit, count in counts.iter_rows():
        inside = {rank: at - before for rank, at in ranks.items() if before <= at < before + count}
        if inside:
            yield digit, count, inside
        before += count


def _key_of(order: int) -> float:
    bits = order if order >= _SIGN else _SIGN - 1 - order
    return float(np.uint64(bits).view(np.float64))


def _u64(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)
