"""Check for duplicate samples in bounded memory, for loss tables of other programs."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID, numpy_sample_key, sample_key

Result = TypeVar("Result")
Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.uint32]

# Increasing sequences of keys that are remembered: 16 bytes each.
_MAX_SEQUENCES = 1 << 20
# Runs of a chunk that are remembered.
_MAX_RUNS = 64
# Few enough rows for a core's cache.
_ROWS_PER_STEP = 1 << 15
# Keys that are sorted in memory at once.
_MAX_SORTED = 1 << 25


@dataclass(frozen=True)
class Runs:
    """Ranges of consecutive sample_keys, into which the ids of a chunk of rows divide.

    Attributes:
        first: uint64[n], the first key of each run.
        last: uint64[n], its last key.
        num_rows: rows with both ids.
    """

    first: Keys
    last: Keys
    num_rows: int

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Runs":
        """Return the runs of rows with shard_id and row, integers of u32 range."""
        ids = rows.select(pl.col(SHARD_ID, ROW).cast(pl.UInt32))
        if any(column.null_count() for column in ids):  # faster than `drop_nulls` without any
            ids = ids.drop_nulls()
        if ids.is_empty():
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 0)
        blocks = [_ends(ids, first) for first in range(0, len(ids), _ROWS_PER_STEP)]
        ends = np.append(np.concatenate(blocks), len(ids) - 1)
        starts = np.append(0, ends[:-1] + 1)
        return cls(_keys_at(ids, starts), _keys_at(ids, ends), len(ids))

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64[n + 1]: the position of the first row of each run, and the number of rows."""
        return np.append(0, np.cumsum(self.last - self.first + np.uint64(1)).astype(np.int64))

    def ids(self) -> pl.DataFrame:
        """Return the shard_id and row u32 of the rows, of which none lacks one."""
        rows = np.arange(self.num_rows, dtype=np.uint32)
        return self._ids(rows, counts=np.diff(self.starts))

    def ids_at(self, positions: npt.NDArray[np.integer[Any]]) -> pl.DataFrame:
        """Return the ids of the rows at these positions, which ascend."""
        bounds = np.searchsorted(positions, self.starts.astype(positions.dtype))
        return self._ids(positions.astype(np.uint32), counts=np.diff(bounds))

    def _ids(self, positions: Ids, *, counts: npt.NDArray[np.int64]) -> pl.DataFrame:
        """Return the ids at positions, of which `counts` are in each run. Changes `positions`."""
        offsets = (self.first - self.starts[:-1].astype(np.uint64)).astype(np.uint32)
        shards = (self.first >> np.uint64(32)).astype(np.uint32)
        positions += np.repeat(offsets, counts)  # modulo 2^32
        return pl.DataFrame({SHARD_ID: np.repeat(shards, counts), ROW: positions})

    def keys(self, rows: slice) -> Keys:
        """Return the sample_keys of consecutive rows."""
        start, stop, _ = rows.indices(self.num_rows)
        offsets: Keys = self.first - self.starts[:-1].astype(np.uint64)  # modulo 2^64
        run = int(np.searchsorted(self.starts, start, side="right")) - 1
        if stop <= self.starts[run + 1]:
            first = int(self.first[run]) + start - int(self.starts[run])
            return np.arange(first, first + stop - start, dtype=np.uint64)
        bounds: npt.NDArray[np.int64] = np.clip(self.starts, start, stop)
        keys = np.arange(start, stop, dtype=np.uint64)
        keys += np.repeat(offsets, np.diff(bounds))
        return keys

    def are_of(self, place: range) -> bool:
        """Whether these are the ids of all rows at `place`, and few."""
        return 0 < len(self.first) <= _MAX_RUNS and self.num_rows == len(place)


def _ends(ids: pl.DataFrame, first: int) -> npt.NDArray[np.int64]:
    """Return the positions of the last rows of runs, among the next `_ROWS_PER_STEP` rows."""
    block = ids.slice(first, _ROWS_PER_STEP + 1)
    shards, numbers = (block[name].to_numpy() for name in (SHARD_ID, ROW))
    # In u32: computing the keys of all rows would take twice as long.
    is_end = numbers[1:] - numbers[:-1] != 1
    is_end |= shards[1:] != shards[:-1]
    is_end |= numbers[1:] == 0  # the difference of u32 wraps
    return np.flatnonzero(is_end) + first


def _keys_at(ids: pl.DataFrame, positions: npt.NDArray[np.int64]) -> Keys:
    chosen = ids[positions]
    return numpy_sample_key(chosen[SHARD_ID].to_numpy(), chosen[ROW].to_numpy())


class IdWatch:
    """Ids of a table, as the first complete pass over it has seen them.

    Later passes need not read the ids of chunks with few runs, nor does `check_unique`.
    """

    def __init__(self) -> None:
        self.sequences: _Sequences | None = None
        self._runs: dict[range, Runs] = {}

    def over(self, chunks: Iterable[tuple[range, Runs | None, Result]]) -> Iterator[Result]:
        """Yield the results of a pass over (positions of the rows, their runs, result)."""
        sequences = _Sequences()
        for place, runs, result in chunks:
            assert runs is not None, "a pass that is watched knows the ids"
            sequences.add(runs)
            if runs.are_of(place):
                self._runs[place] = runs
            yield result
        self.sequences = sequences

    def runs(self, place: range) -> Runs | None:
        """Return the runs of a chunk, if there are few and no row lacks an id."""
        return self._runs.get(place) if self.sequences is not None else None


def check_unique(
    rows: pl.LazyFrame, *, watch: IdWatch | None = None, max_sorted: int = _MAX_SORTED
) -> None:
    """Raise `InputError` that names a duplicate sample in `rows` (shard_id and row, in range).

    Takes one pass, unless `watch` has seen one, if the keys form increasing sequences that do not
    overlap, as in sorted files. Otherwise one more pass per `max_sorted` rows.
    """
    sequences = watch.sequences if watch is not None else None
    if sequences is None:
        sequences = _Sequences()
        ids = rows.select(SHARD_ID, ROW)
        for batch in ids.collect_batches(maintain_order=True, engine="streaming"):
            sequences.add(Runs.of(batch))
    if sequences.duplicate is not None:
        raise duplicate_error(sequences.duplicate)
    if sequences.are_disjoint:
        return
    keys = rows.select(sample_key().alias("key")).drop_nulls()
    parts = -(-sequences.num_rows // max_sorted)
    for part in range(parts):
        part_keys = keys.filter(pl.col("key") % parts == part).collect(engine="streaming")
        ordered = part_keys["key"].sort().to_numpy()
        if len(duplicates := np.flatnonzero(ordered[1:] == ordered[:-1])):
            raise duplicate_error(int(ordered[duplicates[0]]))


def duplicate_error(key: int) -> InputError:
    """Return the error for a sample that occurs twice, from its sample_key."""
    shard_id, row = divmod(key, 1 << 32)
    return InputError(
        f"row {row} of shard {shard_id} occurs twice: expected every sample once. Look for"
        " duplicate rows in the losses, or a file that was given twice"
    )


class _Sequences:
    """First and last keys of increasing sequences of keys."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        self._too_many = False
        self.num_rows = 0
        self.duplicate: int | None = None

    def add(self, runs: Runs) -> None:
        """Add the next rows."""
        self.num_rows += runs.num_rows
        falls = np.flatnonzero(runs.first[1:] <= runs.last[:-1])
        equal = falls[runs.first[falls + 1] == runs.last[falls]]
        if len(equal) and self.duplicate is None:
            self.duplicate = int(runs.last[equal[0]])
        self._too_many |= len(self._first) + len(falls) > _MAX_SEQUENCES
        if self._too_many or not runs.num_rows:
            return
        first = runs.first[np.concatenate([[0], falls + 1])].tolist()
        last = runs.last[np.concatenate([falls, [-1]])].tolist()
        if self._last and first[0] > self._last[-1]:
            self._last[-1] = last[0]
            first, last = first[1:], last[1:]
        self._first += first
        self._last += last

    @property
    def are_disjoint(self) -> bool:
        if self._too_many:
            return False
        ordered = sorted(zip(self._first, self._last, strict=True))
        return all(last < first for (_, last), (first, _) in itertools.pairwise(ordered))
