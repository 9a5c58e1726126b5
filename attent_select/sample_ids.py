"""Check for duplicate samples in bounded memory, for loss tables of other programs."""

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import sample_key

Keys = npt.NDArray[np.uint64]

# Increasing sequences of keys that are remembered: 16 bytes each.
_MAX_SEQUENCES = 1 << 20
# Keys that are sorted in memory at once.
_MAX_SORTED = 1 << 25


def check_unique(rows: pl.LazyFrame, *, max_sorted: int = _MAX_SORTED) -> None:
    """Raise `InputError` that names a duplicate sample in `rows` (shard_id and row, in range).

    Takes one pass if the keys form increasing sequences that do not overlap, as in sorted files.
    Otherwise one more pass per `max_sorted` rows.
    """
    keys = rows.select(sample_key().alias("key")).drop_nulls()
    num_rows, sequences = 0, _Sequences()
    for batch in _batches(keys):
        num_rows += len(batch)
        sequences.add(batch)
    if sequences.are_disjoint:
        return
    parts = -(-num_rows // max_sorted)
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

    def add(self, keys: Keys) -> None:
        falls = np.flatnonzero(keys[1:] <= keys[:-1])
        if len(duplicates := falls[keys[falls + 1] == keys[falls]]):
            raise duplicate_error(int(keys[duplicates[0]]))
        self._too_many |= len(self._first) + len(falls) > _MAX_SEQUENCES
        if self._too_many:
            return
        first = keys[np.concatenate([[0], falls + 1])].tolist()
        last = keys[np.concatenate([falls, [len(keys) - 1]])].tolist()
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


def _batches(keys: pl.LazyFrame) -> Iterator[Keys]:
    for batch in keys.collect_batches(maintain_order=True, engine="streaming"):
        if len(batch):
            yield batch["key"].to_numpy()
