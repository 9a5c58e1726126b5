"""Exact top m of any table, in memory that does not grow with it.

Finds the edge of a selection in the order of the rows (larger key first, then smaller sample_key).

Given the keys of some rows, a bracket around the m-th key is guessed and verified by exact counts
in one pass, which also collects the rows inside it; if it missed, the counts correct the next
guess. Without such keys, or if no bracket is narrow enough (all keys equal), `radix.py` counts its
way down. Neither sorts the catalog, as `LazyFrame.top_k` would.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID, numpy_sample_key, sample_key
from attent_select.selection import radix
from attent_select.selection.chunks import Chunks
from attent_select.selection.columns import FIRST_EXCLUDED, INCLUDED, KEY, STRATUM
from attent_select.selection.counting import require_rows
from attent_select.selection.radix import RowPosition, SelectionEdge
from attent_select.selection.strata import with_stratum_values

_LAST_KEY: Final = "__last_key"
_LAST_SAMPLE_KEY: Final = "__last_sample_key"

# Largest number of rows inside a bracket that are collected: 16 bytes each.
_MAX_BRACKET_ROWS: Final = 3 << 20
_MAX_GUESSES: Final = 3
# Minimum width of a bracket on each side, as a share of the rows: shards are not alike.
_MIN_MARGIN: Final = 0.0015


@dataclass(frozen=True)
class PilotKeys:
    """Keys of a pilot subset, descending, and the number of rows that they represent."""

    keys: npt.NDArray[np.float64]
    num_rows: int

    @classmethod
    def of(cls, keys: pl.Series, *, num_rows: int) -> "PilotKeys":
        """Build from the float64 keys of some rows, in any order."""
        return cls(np.sort(keys.to_numpy())[::-1], num_rows)

    def bracket(self, rank: float) -> tuple[float, float]:
        """Return keys (low, high) that probably enclose the row of this (estimated) rank."""
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
        """Return the estimated rank of a key among all rows."""
        above = len(self.keys) - int(np.searchsorted(self.keys[::-1], key, side="right"))
        return above / len(self.keys) * self.num_rows


def find_edge(keyed: Chunks, num_samples: int, *, pilot: PilotKeys) -> tuple[SelectionEdge, int]:
    """Return the edge after `num_samples` rows, and the number of all rows; always exact.

    Args:
        keyed: rows with shard_id, row, KEY, COST (1) and STRATUM (0).
        num_samples: m; at 0 the edge is before the first row.
        pilot: makes the search faster, never different.

    Raises:
        TooFewError: there are fewer than m rows.
    """
    if num_samples == 0:
        return SelectionEdge(None, None), _count_all(keyed).num_rows
    rank = float(num_samples)
    counts = None
    for _ in range(_MAX_GUESSES if len(pilot.keys) and pilot.num_rows else 0):
        low, high = pilot.bracket(rank)
        counts = _count_bracket(keyed, low=low, high=high)
        require_rows(num_samples, eligible=counts.num_rows)
        last = counts.position(num_samples - 1)
        first_excluded = counts.position(num_samples)
        if last and (first_excluded or num_samples == counts.num_rows):
            return SelectionEdge(last, first_excluded), counts.num_rows
        if not counts.is_complete:
            break
        # The exact rank of one end of the bracket is known now: correct the pilot's error there.
        known_key = high if math.isfinite(high) else low
        exact_rank = counts.num_above + (0 if known_key == high else len(counts.keys))
        rank = num_samples + pilot.rank(known_key) - exact_rank
    if counts is None:
        counts = _count_all(keyed)
        require_rows(num_samples, eligible=counts.num_rows)
    return radix.find_edges(keyed, {0: num_samples})[0], counts.num_rows


def with_edges(keyed: pl.LazyFrame, edges: Mapping[int, SelectionEdge]) -> pl.LazyFrame:
    """Add INCLUDED and FIRST_EXCLUDED by the edge of each row's stratum."""
    if len(edges) == 1:
        (edge,) = edges.values()
        excluded_key = edge.first_excluded and edge.first_excluded.key
        first_excluded = pl.lit(excluded_key, dtype=pl.Float64).alias(FIRST_EXCLUDED)
        return keyed.with_columns(_is_not_after(edge.last).alias(INCLUDED), first_excluded)
    edge_of_stratum = pl.DataFrame(
        [_edge_row(stratum, edge) for stratum, edge in edges.items()],
        schema={STRATUM: pl.UInt32, _LAST_KEY: pl.Float64, _LAST_SAMPLE_KEY: pl.UInt64,
                FIRST_EXCLUDED: pl.Float64},
        orient="row",
    )  # fmt: skip
    is_tied = (pl.col(KEY) == pl.col(_LAST_KEY)) & (sample_key() <= pl.col(_LAST_SAMPLE_KEY))
    is_included = ((pl.col(KEY) > pl.col(_LAST_KEY)) | is_tied).fill_null(False)
    return (
        with_stratum_values(keyed, edge_of_stratum)
        .with_columns(is_included.alias(INCLUDED))
        .drop(_LAST_KEY, _LAST_SAMPLE_KEY)
    )


def _edge_row(stratum: int, edge: SelectionEdge) -> tuple[int | float | None, ...]:
    last = (edge.last.key, edge.last.sample_key) if edge.last else (None, None)
    return (stratum, *last, edge.first_excluded and edge.first_excluded.key)


def _is_not_after(last: RowPosition | None) -> pl.Expr:
    if last is None:
        return pl.lit(value=False)
    last_shard, last_row = divmod(last.sample_key, 1 << 32)
    # Compared as u32: computing the sample_key would take as long as everything else.
    shard, row = pl.lit(last_shard, dtype=pl.UInt32), pl.lit(last_row, dtype=pl.UInt32)
    is_in_order = (pl.col(SHARD_ID) < shard) | ((pl.col(SHARD_ID) == shard) & (pl.col(ROW) <= row))
    return (pl.col(KEY) > last.key) | ((pl.col(KEY) == last.key) & is_in_order)


@dataclass(frozen=True)
class _BracketCounts:
    """Counts of one pass: all rows, rows above the bracket, and the rows inside it.

    `keys` float64[n] and `sample_keys` uint64[n] are the rows inside, in the order of the rows;
    empty if there are too many (`is_complete` is False).
    """

    num_rows: int
    num_above: int
    keys: npt.NDArray[np.float64]
    sample_keys: npt.NDArray[np.uint64]
    is_complete: bool

    @functools.cached_property
    def _ascending(self) -> npt.NDArray[np.float64]:
        return np.sort(self.keys)

    def position(self, rank: int) -> RowPosition | None:
        """Return the row of this rank (from 0), None if it is outside the bracket."""
        local_rank = rank - self.num_above
        if not self.is_complete or not 0 <= local_rank < len(self.keys):
            return None
        key = self._ascending[-1 - local_rank]
        num_larger = len(self.keys) - int(np.searchsorted(self._ascending, key, side="right"))
        ties = np.sort(self.sample_keys[self.keys == key])
        return RowPosition(float(key), int(ties[local_rank - num_larger]))


def _count_all(keyed: Chunks) -> _BracketCounts:
    return _count_bracket(keyed, low=math.inf, high=math.inf)


def _count_bracket(keyed: Chunks, *, low: float, high: float) -> _BracketCounts:
    """Count all rows and those with a key above `high`, and collect those in [low, high]."""
    # Python integers: polars lengths and u32 sums wrap beyond 2^32 rows.
    num_rows = num_above = num_inside = 0
    # The largest arrays of a selection: preallocated, because concatenation would need twice the
    # memory. Pages that are never written take none.
    keys = np.empty(_MAX_BRACKET_ROWS)
    sample_keys = np.empty(_MAX_BRACKET_ROWS, np.uint64)
    for counts in keyed.run(functools.partial(_count_chunk, low=low, high=high)):
        num_rows += counts.num_rows
        num_above += counts.num_above
        first, num_inside = num_inside, num_inside + len(counts.keys)
        if num_inside <= _MAX_BRACKET_ROWS:
            keys[first:num_inside] = counts.keys
            sample_keys[first:num_inside] = counts.sample_keys
    is_complete = num_inside <= _MAX_BRACKET_ROWS
    inside = slice(num_inside if is_complete else 0)
    return _BracketCounts(num_rows, num_above, keys[inside], sample_keys[inside], is_complete)


def _count_chunk(rows: pl.LazyFrame, *, low: float, high: float) -> _BracketCounts:
    chunk = rows.select(KEY, SHARD_ID, ROW).collect()
    inside = chunk.filter(pl.col(KEY).is_between(low, high))
    return _BracketCounts(
        num_rows=len(chunk),
        num_above=int((chunk[KEY] > high).sum()),
        keys=inside[KEY].to_numpy(),
        sample_keys=numpy_sample_key(inside[SHARD_ID].to_numpy(), inside[ROW].to_numpy()),
        is_complete=True,
    )
