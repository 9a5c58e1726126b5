"""The exact top m of any LazyFrame, in memory that does not grow with it.

Here: the search for where each stratum's budget ends in the order (larger key first, then smaller
sample_key). Not here: what the key is (`strategies/`) or what is done with the rows
(`teaching.py`).

With a few rows to guess from, a bracket around the m-th key is guessed and verified by exact counts
in one pass, which also collects the rows inside it; a bracket that missed is moved by what the
counts said. Without them, or where no bracket is narrow enough (all keys equal), `radix.py` counts
its way down. Sorting or `LazyFrame.top_k` over the whole catalog is what this avoids.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import radix
from attent_select.errors import TooFewError
from attent_select.radix import COST, STRATUM
from attent_select.schema import sample_key

KEY: Final = "__key"
INCLUDED: Final = "__included"
FIRST_EXCLUDED: Final = "__first_excluded"
_LAST_KEY: Final = "__last_key"
_LAST_TIE: Final = "__last_tie"
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


@dataclass(frozen=True)
class Cut:
    """The last row within a budget (None: none fits), and the first beyond it (None: all fit)."""

    last: Position | None
    first_excluded: Position | None


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


def cut(keyed: pl.LazyFrame, num_selected: int, *, pilot: Pilot) -> tuple[Cut, int]:
    """Where `num_selected` rows end, and how many rows there are; exact whatever the pilot says.

    Args:
        keyed: columns KEY (float64, never null or NaN), COST (1), STRATUM (0), shard_id, row.
        num_selected: m, at least 1.
        pilot: makes it faster, never different.

    Raises:
        TooFewError: there are fewer than m rows.
    """
    rank = float(num_selected)
    num_rows = None
    for _ in range(_MAX_GUESSES if len(pilot.keys) and pilot.num_rows else 0):
        low, high = pilot.bracket(rank)
        counted = _count(keyed, low=low, high=high)
        num_rows = counted.num_rows
        check_enough(num_rows, num_selected=num_selected)
        last = counted.position(num_selected - 1)
        first_excluded = counted.position(num_selected)
        if last and (first_excluded or num_selected == num_rows):
            return Cut(last, first_excluded), num_rows
        if not counted.complete:
            break
        # The keys above `high` were counted exactly: guess again with the pilot's error there.
        known = high if math.isfinite(high) else low
        exact = counted.above + (0 if known == high else len(counted.inside))
        rank = num_selected + pilot.rank(known) - exact
    if num_rows is None:
        num_rows = int(keyed.select(pl.col(COST).sum()).collect(engine="streaming").item())
        check_enough(num_rows, num_selected=num_selected)
    return cuts(keyed, {0: num_selected})[0], num_rows


def cuts(keyed: pl.LazyFrame, budgets: Mapping[int, int]) -> dict[int, Cut]:
    """Where each stratum's budget ends, counted in COST; `keyed` as for `cut`."""
    ordered = radix.with_order(keyed, pl.col(KEY))
    return {
        stratum: Cut(
            Position(*found.last) if found.last else None,
            Position(*found.first_excluded) if found.first_excluded else None,
        )
        for stratum, found in radix.boundaries(ordered, budgets).items()
    }


def with_cuts(keyed: pl.LazyFrame, cut_of: Mapping[int, Cut]) -> pl.LazyFrame:
    """Adds INCLUDED (is the row within its stratum's budget?) and FIRST_EXCLUDED (float64 key)."""
    found = pl.DataFrame(
        [
            (stratum, *_numbers(each.last), each.first_excluded and each.first_excluded.key)
            for stratum, each in cut_of.items()
        ],
        schema={STRATUM: pl.UInt32, _LAST_KEY: pl.Float64, _LAST_TIE: pl.UInt64,
                FIRST_EXCLUDED: pl.Float64},
        orient="row",
    )  # fmt: skip
    tied = (pl.col(KEY) == pl.col(_LAST_KEY)) & (sample_key() <= pl.col(_LAST_TIE))
    within = ((pl.col(KEY) > pl.col(_LAST_KEY)) | tied).fill_null(False)
    return (
        with_stratum_values(keyed, found)
        .with_columns(within.alias(INCLUDED))
        .drop(_LAST_KEY, _LAST_TIE)
    )


def with_stratum_values(rows: pl.LazyFrame, values: pl.DataFrame) -> pl.LazyFrame:
    """Adds to every row the values of its stratum, in the order of `rows`."""
    if len(values) == 1:
        return rows.with_columns(
            pl.lit(values[name][0], dtype=values.schema[name]).alias(name)
            for name in values.columns
            if name != STRATUM
        )
    # A join, not `replace_strict`: that one collects its input.
    return rows.join(values.lazy(), on=STRATUM, how="left", maintain_order="left")


def check_enough(num_rows: int, *, num_selected: int) -> None:
    """Raises `TooFewError` if there are fewer than `num_selected` rows."""
    if num_rows < num_selected:
        raise TooFewError(
            f"{num_selected} samples asked for, but only {num_rows} are eligible: ask for at most "
            f"{num_rows}",
            num_rows,
        )


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


def _numbers(position: Position | None) -> tuple[float | None, int | None]:
    return (position.key, position.sample_key) if position else (None, None)


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
