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
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.sample_ids import Runs
from attent_select.schema import LOSS, ROW, SHARD_ID, numpy_sample_key, sample_key
from attent_select.selection import radix
from attent_select.selection.chunks import Bitmap, Chunks, MappedChunks, positions_of, run_with_runs
from attent_select.selection.columns import ELIGIBLE, KEY, STRATUM
from attent_select.selection.counting import require_rows
from attent_select.selection.radix import RowPosition, SelectionEdge
from attent_select.selection.strata import with_stratum_values
from attent_select.stats.gumbel import NoisyKeys, NoisySearch

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

    keys: npt.NDArray[np.floating[Any]]
    num_rows: int

    @classmethod
    def of(cls, keys: pl.Series, *, num_rows: int) -> "PilotKeys":
        """Build from the keys of some rows, in any order."""
        return cls(np.sort(keys.to_numpy())[::-1], num_rows)

    @property
    def is_empty(self) -> bool:
        return not (len(self.keys) and self.num_rows)

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


# What is known about the keys before the search.
Guess = PilotKeys | NoisyKeys


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


def find_edge(keyed: Chunks, num_samples: int, *, guess: Guess) -> EdgeSearch:
    """Find the edge after `num_samples` eligible rows; always exact.

    Args:
        keyed: rows with shard_id, row, ELIGIBLE, KEY, COST (1) and STRATUM (0).
        num_samples: m; at 0 the edge is before the first row.
        guess: makes the search faster, never different.

    Raises:
        TooFewError: there are fewer than m eligible rows.
    """
    if num_samples == 0:
        return EdgeSearch(SelectionEdge(None, None), _count_all(keyed).num_rows)
    rank = float(num_samples)
    counts = None
    for _ in range(0 if guess.is_empty else _MAX_GUESSES):
        low, high = guess.bracket(rank)
        noisy = guess.search(low, high) if isinstance(guess, NoisyKeys) else None
        counts = _count_bracket(keyed, low=low, high=high, noisy=noisy)
        require_rows(num_samples, eligible=counts.num_rows)
        last = counts.position(num_samples - 1)
        first_excluded = counts.position(num_samples)
        if last and (first_excluded or num_samples == counts.num_rows):
            return EdgeSearch(
                SelectionEdge(last, first_excluded), counts.num_rows, counts.rows_to(last)
            )
        if not counts.is_complete:
            break
        # The exact rank of one end of the bracket is known now: correct the error there.
        known_key = high if math.isfinite(high) else low
        exact_rank = counts.num_above + (0 if known_key == high else len(counts.keys))
        rank = num_samples + guess.rank(known_key) - exact_rank
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
    keyed: Chunks, *, low: float, high: float, noisy: NoisySearch | None = None
) -> _BracketCounts:
    """Count eligible rows and those with a key above `high`, and collect those in [low, high]."""
    count = functools.partial(_count_chunk, low=low, high=high)
    if noisy is not None:
        count = functools.partial(_count_noisy_chunk, search=noisy)
    # Python integers: polars lengths and u32 sums wrap beyond 2^32 rows.
    num_rows = num_above = num_inside = 0
    # The largest arrays of a selection: preallocated, because concatenation would need twice the
    # memory. Pages that are never written take none.
    keys = np.empty(_MAX_BRACKET_ROWS)
    sample_keys, positions = (np.empty(_MAX_BRACKET_ROWS, np.uint64) for _ in range(2))
    bitmap = Bitmap()
    for counts in run_with_runs(keyed, count):
        num_rows += counts.num_rows
        num_above += counts.num_above
        first, num_inside = num_inside, num_inside + len(counts.keys)
        if num_inside <= _MAX_BRACKET_ROWS:
            keys[first:num_inside] = counts.keys
            sample_keys[first:num_inside] = counts.sample_keys
            positions[first:num_inside] = counts.positions + np.uint64(len(bitmap))
        bitmap.add(counts.candidates, values=counts.losses)
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


@dataclass(frozen=True)
class _ChunkCounts:
    """As `_BracketCounts` of one chunk; its candidates are bool per row.

    `losses` are those of the candidates, if the keys are noisy.
    """

    num_rows: int
    num_above: int
    keys: npt.NDArray[np.float64]
    sample_keys: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.uint64]
    candidates: pl.Series
    losses: pl.Series | None = None


def _count_chunk(rows: pl.LazyFrame, runs: Runs | None, *, low: float, high: float) -> _ChunkCounts:
    columns = rows.select(KEY, ELIGIBLE, *_ids_to_read(runs)).collect(engine="in-memory")
    key, is_eligible = columns[KEY], columns[ELIGIBLE]
    # polars combines 64 booleans at a time. A key is null only where a row is not eligible. The
    # ends are rounded to the type of the key, which makes the bracket another one, not a wrong one.
    candidates = is_eligible & (key >= low)
    is_above = is_eligible & (key > high)
    is_inside = candidates & ~is_above
    positions = positions_of(is_inside)
    return _ChunkCounts(
        num_rows=int(is_eligible.sum()),
        num_above=int(is_above.sum()),
        keys=key.filter(is_inside).cast(pl.Float64).to_numpy(),
        sample_keys=_sample_keys(columns, runs, positions),
        positions=positions.astype(np.uint64),
        candidates=candidates,
    )


def _count_noisy_chunk(
    rows: pl.LazyFrame, runs: Runs | None, *, search: NoisySearch
) -> _ChunkCounts:
    """As `_count_chunk`, from the losses rather than the keys."""
    columns = rows.select(LOSS, ELIGIBLE, *_ids_to_read(runs)).collect(engine="in-memory")
    keys_of = _sample_keys(columns, None).__getitem__ if runs is None else runs.keys
    is_eligible = columns[ELIGIBLE]
    mask = None if is_eligible.all() else is_eligible.to_numpy()
    losses = columns[LOSS].fill_null(0.0)
    result = search(losses.to_numpy(), keys_of, is_eligible=mask)
    candidates = pl.Series(result.is_candidate)
    return _ChunkCounts(
        num_rows=int(is_eligible.sum()),
        num_above=result.num_above,
        keys=result.keys,
        sample_keys=_sample_keys(columns, runs, result.inside),
        positions=result.inside.astype(np.uint64),
        candidates=candidates,
        losses=losses.filter(candidates),
    )


def _ids_to_read(runs: Runs | None) -> list[str]:
    return [SHARD_ID, ROW] if runs is None else []


def _sample_keys(
    columns: pl.DataFrame, runs: Runs | None, positions: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.uint64]:
    """Return the sample_keys of the rows at `positions` (None: all), 0 without an id."""
    if runs is not None and positions is not None:
        ids = runs.ids_at(positions)
    else:
        ids = columns.select(pl.col(SHARD_ID, ROW).fill_null(0))
        ids = ids if positions is None else ids[positions]
    return numpy_sample_key(ids[SHARD_ID].to_numpy(), ids[ROW].to_numpy())
