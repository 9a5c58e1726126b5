"""The exact top m of any LazyFrame, in memory that does not grow with it.

Here: the search for the m-th row in the order (larger key first, then smaller sample_key). Not
here: what the key is (`strategies/`) or what is done with the rows (`teaching.py`).

With a few rows to guess from, a bracket around the m-th key is guessed and verified by exact counts
in one pass, which also collects the rows inside it; a bracket that missed is moved by what the
counts said. Without them, or where no bracket is narrow enough (all keys equal), `radix.py` counts
its way down. Sorting or `LazyFrame.top_k` over the whole catalog is what this avoids.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import radix
from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID, sample_key

KEY: Final = "__key"
_SAMPLE_KEY: Final = radix.SAMPLE_KEY

# Rows inside a bracket that are collected: 16 bytes each.
_MAX_BRACKET_ROWS: Final = 1 << 22
_MAX_GUESSES: Final = 3
# A bracket is at least this wide on each side, as a share of the rows: shards are not alike.
_MIN_MARGIN: Final = 0.0015


@dataclass(frozen=True)
class Position:
    """A row's place in the order."""

    key: float
    sample_key: int

    def includes(self) -> pl.Expr:
        """Boolean expression over KEY, shard_id and row: this row and all rows before it."""
        tied = (pl.col(KEY) == self.key) & (sample_key() <= pl.lit(self.sample_key, pl.UInt64))
        return (pl.col(KEY) > self.key) | tied


@dataclass(frozen=True)
class Cut:
    """The m-th row, the one after it (None if there is none), and how many rows there are."""

    last: Position
    first_excluded: Position | None
    num_rows: int


@dataclass(frozen=True)
class Pilot:
    """Some rows to guess from: their keys in descending order, and how many rows they stand for."""

    keys: npt.NDArray[np.float64]
    num_rows: int

    @classmethod
    def of(cls, keys: pl.Series, *, num_rows: int) -> "Pilot":
        """From the float64 keys of some rows, in any order."""
        return cls(np.sort(keys.to_numpy())[::-1], num_rows)

    def bracket(self, rank: float) -> tuple[float, float]:
        """Keys (low, high) that should lie around the row of this (estimated) rank."""
        size = len(self.keys)
        share = min(1.0, max(0.0, rank / self.num_rows))
        margin = max(_MIN_MARGIN, 4 * math.sqrt(share * (1 - share) / size) + 2 / size)
        # Wide enough to be right, narrow enough to be collected.
        margin = min(margin, _MAX_BRACKET_ROWS / (3 * self.num_rows))
        first, last = math.floor((share - margin) * size), math.ceil((share + margin) * size)
        high = math.inf if first < 0 else float(self.keys[min(first, size - 1)])
        low = -math.inf if last >= size else float(self.keys[last])
        return low, high

    def rank(self, key: float) -> float:
        """The estimated rank of a key among all rows."""
        above = len(self.keys) - int(np.searchsorted(self.keys[::-1], key, side="right"))
        return above / len(self.keys) * self.num_rows


@dataclass(frozen=True)
class _Count:
    """What one pass over a bracket found. `inside` holds KEY and SAMPLE_KEY in order."""

    num_rows: int
    above: int
    inside: pl.DataFrame
    complete: bool

    def position(self, rank: int) -> Position | None:
        local = rank - self.above
        if not self.complete or not 0 <= local < len(self.inside):
            return None
        return Position(self.inside[KEY][local], self.inside[_SAMPLE_KEY][local])


def cut(keyed: pl.LazyFrame, num_selected: int, *, pilot: Pilot | None = None) -> Cut:
    """The place of the `num_selected`-th row, exact whatever the pilot says.

    Args:
        keyed: columns KEY (float64, never null or NaN), shard_id, row; no row twice.
        num_selected: m, at least 1.
        pilot: makes it faster, never different.

    Raises:
        InputError: there are fewer than m rows.
    """
    rank = float(num_selected)
    for _ in range(_MAX_GUESSES if pilot is not None and len(pilot.keys) else 0):
        assert pilot is not None
        low, high = pilot.bracket(rank)
        counted = _count(keyed, low=low, high=high)
        check_enough(counted.num_rows, num_selected=num_selected)
        last = counted.position(num_selected - 1)
        first_excluded = counted.position(num_selected)
        if last and (first_excluded or num_selected == counted.num_rows):
            return Cut(last, first_excluded, counted.num_rows)
        if not counted.complete:
            break
        # The keys above `high` were counted exactly: guess again with the pilot's error there.
        known = high if math.isfinite(high) else low
        exact = counted.above + (0 if known == high else len(counted.inside))
        rank = num_selected + pilot.rank(known) - exact
    return _by_radix(keyed, num_selected)


def _count(keyed: pl.LazyFrame, *, low: float, high: float) -> _Count:
    """One pass: rows, rows with a key above `high`, and the rows with low ≤ key ≤ high."""
    # u64 sums: polars lengths and u32 sums wrap beyond 2^32 rows.
    counts = keyed.select(
        pl.col(KEY).is_not_null().cast(pl.UInt64).sum().alias("num_rows"),
        (pl.col(KEY) > high).cast(pl.UInt64).sum().alias("above"),
    )
    inside = (
        keyed.filter((pl.col(KEY) >= low) & (pl.col(KEY) <= high))
        .head(_MAX_BRACKET_ROWS + 1)
        .select(KEY, sample_key().alias(_SAMPLE_KEY))
    )
    found, rows = pl.collect_all([counts, inside], engine="streaming")
    return _Count(
        num_rows=found["num_rows"][0],
        above=found["above"][0],
        inside=rows.sort([KEY, _SAMPLE_KEY], descending=[True, False]),
        complete=len(rows) <= _MAX_BRACKET_ROWS,
    )


def _by_radix(keyed: pl.LazyFrame, num_selected: int) -> Cut:
    counted = keyed.select(pl.col(ROW).is_not_null().cast(pl.UInt64).sum())
    num_rows = int(counted.collect(engine="streaming").item())
    check_enough(num_rows, num_selected=num_selected)
    ranks = [num_selected - 1] if num_selected == num_rows else [num_selected - 1, num_selected]
    ordered = radix.with_order(keyed.select(SHARD_ID, ROW, KEY), pl.col(KEY))
    last, *excluded = (Position(*found) for found in radix.positions(ordered, ranks))
    return Cut(last, excluded[0] if excluded else None, num_rows)


def check_enough(num_rows: int, *, num_selected: int) -> None:
    """Raises `InputError` if there are fewer than `num_selected` rows."""
    if num_rows < num_selected:
        raise InputError(
            f"{num_selected} samples asked for, but only {num_rows} are eligible: ask for at most "
            f"{num_rows}"
        )
