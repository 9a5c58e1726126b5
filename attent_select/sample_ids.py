"""Check for duplicate samples in bounded memory, for loss tables of other programs."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID, numpy_sample_key, sample_key

Result = TypeVar("Result")
Keys = npt.NDArray[np.uint64]

# Increasing sequences of keys that are remembered: 16 bytes each.
_MAX_SEQUENCES = 1 << 20
# Runs of a chunk that are remembered.
_MAX_RUNS = 64
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
        ids = rows.select(pl.col(SHARD_ID, ROW).cast(pl.UInt32)).drop_nulls()
        if ids.is_empty():
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64), 0)
        shards, numbers = (ids[name].to_numpy() for name in (SHARD_ID, ROW))
        # In u32: computing the keys of all rows would take twice as long.
        is_end = numbers[1:] - numbers[:-1] != 1
        is_end |= shards[1:] != shards[:-1]
        is_end |= numbers[1:] == 0  # the difference of u32 wraps
        ends = np.append(np.flatnonzero(is_end), len(ids) - 1)
        starts = np.append(0, ends[:-1] + 1)
        first, last = (numpy_sample_key(shards[rows], numbers[rows]) for rows in (starts, ends))
        return cls(first, last, len(ids))

    def ids(self) -> pl.DataFrame:
        """Return the shard_id and row u32 of the rows, of which none lacks one."""
        sizes = (self.last - self.first + 1).astype(np.int64)
        rows = np.arange(sizes.sum(), dtype=np.uint32)
        ends = np.cumsum(sizes)
        for first, end, size in zip(self.first, ends, sizes, strict=True):
            rows[end - size : end] += np.uint32((int(first) - int(end - size)) % (1 << 32))
        shards = (self.first >> np.uint64(32)).astype(np.uint32)
        return pl.DataFrame({SHARD_ID: np.repeat(shards, sizes), ROW: rows})


class IdWatch:
    """Ids of a table, as the first complete pass over it has seen them.

    Later passes need not read the ids of chunks with few runs, nor need `check_unique`.
    """

    def __init__(self) -> None:
        self.sequences: _Sequences | None = None
        self._runs: dict[range, Runs] = {}

    def over(self, chunks: Iterable[tuple[range, Runs, Result]]) -> Iterator[Result]:
        """Yield the results of a pass over (positions of the rows, their runs, result)."""
        sequences = _Sequences()
        for place, runs, result in chunks:
            sequences.add(runs)
            if len(runs.first) <= _MAX_RUNS and runs.num_rows == len(place) > 0:
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
