"""Exact top m of any table, in memory that does not grow with it.

Finds the edge of a selection in the order of the rows (larger key first, then smaller sample_key).

Given the keys of some rows, a bracket around the m-th key is guessed and verified by exact counts
in one pass, which also collects the rows inside it; if it missed, the counts correct the next
guess. Without such keys, or if no bracket is narrow enough (all keys equal), `radix.py` counts its
way down. Neither sorts the catalog, as `LazyFrame.top_k` would.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID, numpy_sample_key, sample_key
from attent_select.selection import radix
from attent_select.selection.chunks import Bitmap, Chunks, MappedChunks
from attent_select.selection.columns import ELIGIBLE, KEY, STRATUM
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


# Lower and upper bound → expression of KEY between them, see `HasKeyBetween`.
KeyBetween = Callable[[float, float], pl.Expr]


@dataclass(frozen=True)
class PilotKeys:
    """Keys of a pilot subset, descending, and the number of rows that they represent."""

    keys: npt.NDArray[np.float64]
    num_rows: int

    @classmethod
    def of(cls, keys: pl.Series, *, num_rows: int) -> "PilotKeys":
        """Build from the keys of some rows, in any order."""
        return cls(np.sort(keys.cast(pl.Float64).to_numpy())[::-1], num_rows)

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


@dataclass(frozen=True)
class EdgeSearch:
    """Result of a search.

    Attributes:
        edge: after the number of rows that was asked for.
        num_rows: number of eligible rows.
        rows: the rows up to the edge; None if they are too many, or not known by their position.
    """

    edge: SelectionEdge
    num_rows: int
    rows: Bitmap | None = None


def find_edge(
    keyed: Chunks, num_samples: int, *, pilot: PilotKeys, key_between: KeyBetween | None = None
) -> EdgeSearch:
    """Find the edge after `num_samples` eligible rows; always exact.

    Args:
        keyed: rows with shard_id, row, ELIGIBLE, KEY, COST (1) and STRATUM (0).
        num_samples: m; at 0 the edge is before the first row.
        pilot: makes the search faster, never different.
        key_between: expression of KEY within two bounds, if it is faster than KEY.

    Raises:
        TooFewError: there are fewer than m eligible rows.
    """
    if num_samples == 0:
        return EdgeSearch(SelectionEdge(None, None), _count_all(keyed).num_rows)
    rank = float(num_samples)
    counts = None
    for _ in range(_MAX_GUESSES if len(pilot.keys) and pilot.num_rows else 0):
        low, high = pilot.bracket(rank)
        counts = _count_bracket(keyed, low=low, high=high, key_between=key_between)
        require_rows(num_samples, eligible=counts.num_rows)
        last = counts.position(num_samples - 1)
        first_excluded = counts.position(num_samples)
        if last and (first_excluded or num_samples == counts.num_rows):
            return EdgeSearch(
                SelectionEdge(last, first_excluded), counts.num_rows, counts.rows_to(last)
            )
        if not counts.is_complete:
            break
        # The exact rank of one end of the bracket is known now: correct the pilot's error there.
        known_key = high if math.isfinite(high) else low
        exact_rank = counts.num_above + (0 if known_key == high else len(counts.keys))
        rank = num_samples + pilot.rank(known_key) - exact_rank
    if counts is None:
        counts = _count_all(keyed)
        require_rows(num_samples, eligible=counts.num_rows)
    eligible = MappedChunks(keyed, only_eligible)
    return EdgeSearch(radix.find_edges(eligible, {0: num_samples})[0], counts.num_rows)


def only_eligible(keyed: pl.LazyFrame) -> pl.LazyFrame:
    """Return the eligible rows."""
    return keyed.filter(ELIGIBLE)


def with_mark(
    keyed: pl.LazyFrame, edges: Mapping[int, SelectionEdge], *, column: str
) -> pl.LazyFrame:
    """Add a bool column: whether the row is eligible and up to the edge of its stratum."""
    if len(edges) == 1:
        (edge,) = edges.values()
        return keyed.with_columns((pl.col(ELIGIBLE) & _is_not_after(edge.last)).alias(column))
    edge_of_stratum = pl.DataFrame(
        [_edge_row(stratum, edge) for stratum, edge in edges.items()],
        schema={STRATUM: pl.UInt32, _LAST_KEY: pl.Float64, _LAST_SAMPLE_KEY: pl.UInt64},
        orient="row",
    )
    is_tied = (pl.col(KEY) == pl.col(_LAST_KEY)) & (sample_key() <= pl.col(_LAST_SAMPLE_KEY))
    is_included = ((pl.col(KEY) > pl.col(_LAST_KEY)) | is_tied).fill_null(False)
    return (
        with_stratum_values(keyed, edge_of_stratum)
        .with_columns((pl.col(ELIGIBLE) & is_included).alias(column))
        .drop(_LAST_KEY, _LAST_SAMPLE_KEY)
    )


def _edge_row(stratum: int, edge: SelectionEdge) -> tuple[int | float | None, ...]:
    return (stratum, *((edge.last.key, edge.last.sample_key) if edge.last else (None, None)))


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
    """Counts of one pass over rows: eligible rows, those above the bracket, and those inside it.

    Attributes:
        num_rows: eligible rows.
        num_above: eligible rows above the bracket.
        keys: float64[n] of the rows inside, in the order of the rows; empty if there are too many
            (`is_complete` is False).
        sample_keys: uint64[n] of the rows inside.
        positions: uint64[n], positions of the rows inside among all rows.
        candidates: the rows above or inside.
    """

    num_rows: int
    num_above: int
    keys: npt.NDArray[np.float64]
    sample_keys: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.uint64]
    candidates: Bitmap
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

    def rows_to(self, last: RowPosition) -> Bitmap | None:
        """Return the rows up to and including `last`, which is inside the bracket.

        None if there are too many rows for a bitmap. Uses `candidates` up.
        """
        if not self.candidates.is_complete:
            return None
        is_tied = (self.keys == last.key) & (self.sample_keys <= last.sample_key)
        self.candidates.clear(self.positions[~((self.keys > last.key) | is_tied)])
        return self.candidates


def _count_all(keyed: Chunks) -> _BracketCounts:
    return _count_bracket(keyed, low=math.inf, high=math.inf)


def _count_bracket(
    keyed: Chunks, *, low: float, high: float, key_between: KeyBetween | None = None
) -> _BracketCounts:
    """Count eligible rows and those with a key above `high`, and collect those in [low, high]."""
    if key_between is not None:
        keyed = MappedChunks(keyed, functools.partial(_with_key, key=key_between(low, high)))
    # Python integers: polars lengths and u32 sums wrap beyond 2^32 rows.
    num_rows = num_above = num_inside = 0
    # The largest arrays of a selection: preallocated, because concatenation would need twice the
    # memory. Pages that are never written take none.
    keys = np.empty(_MAX_BRACKET_ROWS)
    sample_keys, positions = (np.empty(_MAX_BRACKET_ROWS, np.uint64) for _ in range(2))
    bitmap = Bitmap()
    for counts in keyed.run(functools.partial(_count_chunk, low=low, high=high)):
        num_rows += counts.num_rows
        num_above += counts.num_above
        first, num_inside = num_inside, num_inside + len(counts.keys)
        if num_inside <= _MAX_BRACKET_ROWS:
            keys[first:num_inside] = counts.keys
            sample_keys[first:num_inside] = counts.sample_keys
            positions[first:num_inside] = counts.positions + np.uint64(len(bitmap))
        bitmap.add(counts.candidates)
    is_complete = num_inside <= _MAX_BRACKET_ROWS
    inside = slice(num_inside if is_complete else 0)
    return _BracketCounts(
        num_rows,
        num_above,
        keys[inside],
        sample_keys[inside],
        positions[inside],
        bitmap,
        is_complete,
    )


def _with_key(rows: pl.LazyFrame, *, key: pl.Expr) -> pl.LazyFrame:
    return rows.with_columns(key.alias(KEY))


@dataclass(frozen=True)
class _ChunkCounts:
    """As `_BracketCounts` of one chunk; its candidates are bool per row."""

    num_rows: int
    num_above: int
    keys: npt.NDArray[np.float64]
    sample_keys: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.uint64]
    candidates: pl.Series


def _count_chunk(rows: pl.LazyFrame, *, low: float, high: float) -> _ChunkCounts:
    columns = rows.select(KEY, SHARD_ID, ROW, ELIGIBLE).collect(engine="in-memory")
    key, is_eligible = columns[KEY], columns[ELIGIBLE]
    # polars combines 64 booleans at a time. A key is null only where a row is not eligible. The
    # ends are rounded to the type of the key, which makes the bracket another one, not a wrong one.
    candidates = is_eligible & (key >= low)
    is_above = is_eligible & (key > high)
    is_inside = candidates & ~is_above
    inside = columns.filter(is_inside)
    return _ChunkCounts(
        num_rows=int(is_eligible.sum()),
        num_above=int(is_above.sum()),
        keys=inside[KEY].cast(pl.Float64).to_numpy(),
        sample_keys=numpy_sample_key(inside[SHARD_ID].to_numpy(), inside[ROW].to_numpy()),
        positions=is_inside.arg_true().to_numpy().astype(np.uint64),
        candidates=candidates,
    )
