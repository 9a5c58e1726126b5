"""The exact top m of any LazyFrame, in memory that does not grow with it.

The search for where each stratum's budget ends in the order (larger key first, then smaller
sample_key).

With a few rows to guess from, a bracket around the m-th key is guessed and verified by exact
counts in one pass, which also collects the rows inside it; a bracket that missed is moved by
what the counts said. Without them, or where no bracket is narrow enough (all keys equal),
`radix.py` counts its way down. Sorting or `LazyFrame.top_k` over the whole catalog is what this
avoids.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import TooFewError
from attent_select.schema import ROW, SHARD_ID, numpy_sample_key, sample_key
from attent_select.selection import radix
from attent_select.selection.chunks import Chunks, Mapped
from attent_select.selection.radix import STRATUM

KEY: Final = "__key"
INCLUDED: Final = "__included"
FIRST_EXCLUDED: Final = "__first_excluded"
_LAST_KEY: Final = "__last_key"
_LAST_TIE: Final = "__last_tie"

# Rows inside a bracket that are collected: 16 bytes each.
_MAX_BRACKET_ROWS: Final = 3 << 20
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


def cut(keyed: Chunks, num_selected: int, *, pilot: Pilot) -> tuple[Cut, int]:
    """Where `num_selected` rows end, and how many rows there are; exact whatever the pilot says.

    Args:
        keyed: columns KEY (float64, never null or NaN), COST (1), STRATUM (0), shard_id, row.
        num_selected: m; 0 is a cut before the first row.
        pilot: makes it faster, never different.

    Raises:
        TooFewError: there are fewer than m rows.
    """
    if num_selected == 0:
        return Cut(None, None), _count(keyed, low=math.inf, high=math.inf).num_rows
    rank = float(num_selected)
    counted = None
    for _ in range(_MAX_GUESSES if len(pilot.keys) and pilot.num_rows else 0):
        low, high = pilot.bracket(rank)
        counted = _count(keyed, low=low, high=high)
        check_enough(counted.num_rows, num_selected=num_selected)
        last = counted.position(num_selected - 1)
        first_excluded = counted.position(num_selected)
        if last and (first_excluded or num_selected == counted.num_rows):
            return Cut(last, first_excluded), counted.num_rows
        if not counted.complete:
            break
        # The keys above `high` were counted exactly: guess again with the pilot's error there.
        known = high if math.isfinite(high) else low
        exact = counted.above + (0 if known == high else len(counted.keys))
        rank = num_selected + pilot.rank(known) - exact
    if counted is None:
        counted = _count(keyed, low=math.inf, high=math.inf)
        check_enough(counted.num_rows, num_selected=num_selected)
    return cuts(keyed, {0: num_selected})[0], counted.num_rows


def cuts(keyed: Chunks, budgets: Mapping[int, int]) -> dict[int, Cut]:
    """Where each stratum's budget ends, counted in COST; `keyed` as for `cut`."""
    ordered = Mapped(keyed, functools.partial(radix.with_order, key=KEY))
    return {
        stratum: Cut(
            Position(*found.last) if found.last else None,
            Position(*found.first_excluded) if found.first_excluded else None,
        )
        for stratum, found in radix.boundaries(ordered, budgets).items()
    }


def with_cuts(keyed: pl.LazyFrame, cut_of: Mapping[int, Cut]) -> pl.LazyFrame:
    """Adds INCLUDED (is the row within its stratum's budget?) and FIRST_EXCLUDED (float64 key)."""
    if len(cut_of) == 1:
        (cut,) = cut_of.values()
        beyond = cut.first_excluded and cut.first_excluded.key
        first_excluded = pl.lit(beyond, dtype=pl.Float64).alias(FIRST_EXCLUDED)
        return keyed.with_columns(_within(cut.last).alias(INCLUDED), first_excluded)
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


def _within(last: Position | None) -> pl.Expr:
    """Whether a row comes no later than `last`."""
    if last is None:
        return pl.lit(value=False)
    shard_id, row = divmod(last.sample_key, 1 << 32)
    # In u32 numbers: putting the sample_key together would take as long as all the rest.
    shard, same_shard = pl.col(SHARD_ID), pl.col(SHARD_ID) == pl.lit(shard_id, dtype=pl.UInt32)
    first = shard < pl.lit(shard_id, dtype=pl.UInt32)
    first = first | (same_shard & (pl.col(ROW) <= pl.lit(row, dtype=pl.UInt32)))
    return (pl.col(KEY) > last.key) | ((pl.col(KEY) == last.key) & first)


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
    """What one pass over a bracket found.

    `keys` float64[n] and `sample_keys` uint64[n] are the rows inside, in the order of the rows;
    empty where they were too many (`complete` is False).
    """

    num_rows: int
    above: int
    keys: npt.NDArray[np.float64]
    sample_keys: npt.NDArray[np.uint64]
    complete: bool

    @functools.cached_property
    def _ascending(self) -> npt.NDArray[np.float64]:
        return np.sort(self.keys)

    def position(self, rank: int) -> Position | None:
        local = rank - self.above
        if not self.complete or not 0 <= local < len(self.keys):
            return None
        key = self._ascending[-1 - local]
        larger = len(self.keys) - int(np.searchsorted(self._ascending, key, side="right"))
        ties = np.sort(self.sample_keys[self.keys == key])
        return Position(float(key), int(ties[local - larger]))


def _numbers(position: Position | None) -> tuple[float | None, int | None]:
    return (position.key, position.sample_key) if position else (None, None)


def _count(keyed: Chunks, *, low: float, high: float) -> _Count:
    """One pass: rows, rows with a key above `high`, and the rows with low ≤ key ≤ high."""
    # Python's integers: polars lengths and u32 sums wrap beyond 2^32 rows.
    num_rows = above = num_inside = 0
    # A bracket is the most that a selection holds: never twice, as while arrays are joined. What is
    # not written to takes no memory.
    keys = np.empty(_MAX_BRACKET_ROWS)
    sample_keys = np.empty(_MAX_BRACKET_ROWS, np.uint64)
    for chunk in keyed.run(functools.partial(_count_chunk, low=low, high=high)):
        num_rows += chunk.num_rows
        above += chunk.above
        first, num_inside = num_inside, num_inside + len(chunk.keys)
        if num_inside <= _MAX_BRACKET_ROWS:
            keys[first:num_inside] = chunk.keys
            sample_keys[first:num_inside] = chunk.sample_keys
    complete = num_inside <= _MAX_BRACKET_ROWS
    kept = slice(num_inside if complete else 0)
    return _Count(num_rows, above, keys[kept], sample_keys[kept], complete)


def _count_chunk(rows: pl.LazyFrame, *, low: float, high: float) -> _Count:
    chunk = rows.select(KEY, SHARD_ID, ROW).collect()
    inside = chunk.filter(pl.col(KEY).is_between(low, high))
    shards, ordinals = inside[SHARD_ID].to_numpy(), inside[ROW].to_numpy()
    return _Count(
        num_rows=len(chunk),
        above=int((chunk[KEY] > high).sum()),
        keys=inside[KEY].to_numpy(),
        sample_keys=numpy_sample_key(shards, ordinals),
        complete=True,
    )
