"""Buffer of samples that were read and wait for their micro-batch, column by column.

A hundred thousand small samples wait at once, and are taken in random order. Columns have one
object in memory for each value, and none for the samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catalogs.shard_format import Sample, samples_of
from trainers.streaming.index_rows import Ids

# Ids, at least one, ascending; and the values of each column for them.
Columns: TypeAlias = tuple[Ids, Mapping[str, Sequence[Any]]]

_NO_IDS = np.zeros(0, np.int64)


class SampleBuffer:
    """Buffer of samples by id, which reads more when one is missing.

    Values are freed together: once half of them were taken, the other samples are set aside when
    more are read.
    """

    def __init__(self, read: Iterator[Columns]) -> None:
        self._read = read
        self._values: dict[str, list[Any]] = {}
        # Ascending, one for each value of a column, except those of `_added`, not yet joined.
        self._ids = _NO_IDS
        self._added: list[Ids] = []
        # Where in `_ids` sequences of consecutive ids begin, and with which id. What is read
        # together mostly is one sequence, and in few of them a sample is found quickly.
        self._starts, self._firsts = _NO_IDS, _NO_IDS
        self._taken = np.zeros(0, np.bool_)
        self._set_aside: dict[int, Sample] = {}

    def take(self, ids: Ids) -> dict[str, list[Any]]:
        """Remove the samples of `ids` and return the values of each column, in this order."""
        positions, is_found = self._find(ids)
        if not is_found.all():
            self._read_until_found(set(ids[~is_found].tolist()) - self._set_aside.keys())
            positions, is_found = self._find(ids)
        self._taken[positions[is_found]] = True
        columns = self._at(positions[is_found])
        if is_found.all():
            return columns
        samples = [self._set_aside.pop(sample_id) for sample_id in ids[~is_found].tolist()]
        return {
            name: _merge(column, [sample[name] for sample in samples], is_first=is_found.tolist())
            for name, column in columns.items()
        }

    def _read_until_found(self, missing_ids: set[int]) -> None:
        while missing_ids:
            ids, values = next(self._read)
            last = self._added[-1] if self._added else self._ids
            is_new = len(last) and (ids[0] <= last[-1] or 2 * self._taken.sum() > len(self._ids))
            if is_new or not self._values:
                self._start_columns(values)
            for name, column in values.items():
                self._values[name] += column
            self._added.append(ids)
            missing_ids.difference_update(ids.tolist())

    def _start_columns(self, names: Iterable[str]) -> None:
        """Set the remaining samples aside and start empty columns."""
        self._join()
        positions = np.flatnonzero(~self._taken)
        samples = samples_of(self._at(positions), num_samples=len(positions))
        self._set_aside |= zip(self._ids[positions].tolist(), samples, strict=True)
        self._ids, self._taken = _NO_IDS, self._taken[:0]
        self._values = {name: [] for name in names}

    def _find(self, ids: Ids) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """Return the positions of `ids` in the columns, and which are there and not taken."""
        self._join()
        if not len(self._ids):
            return ids, np.zeros(len(ids), np.bool_)
        sequences = np.maximum(np.searchsorted(self._firsts, ids, side="right") - 1, 0)
        positions = self._starts[sequences] + ids - self._firsts[sequences]
        positions = np.clip(positions, 0, len(self._ids) - 1)
        # An id that was taken belongs to an earlier epoch.
        return positions, (self._ids[positions] == ids) & ~self._taken[positions]

    def _join(self) -> None:
        if self._added:
            self._ids = np.concatenate([self._ids, *self._added])
            self._added = []
            self._starts = np.flatnonzero(np.diff(self._ids, prepend=-2) != 1)
            self._firsts = self._ids[self._starts]
            num_new = len(self._ids) - len(self._taken)
            self._taken = np.append(self._taken, np.zeros(num_new, np.bool_))

    def _at(self, positions: Ids) -> dict[str, list[Any]]:
        chosen = positions.tolist()
        return {name: [column[k] for k in chosen] for name, column in self._values.items()}


def _merge(first: list[Any], second: list[Any], *, is_first: list[bool]) -> list[Any]:
    """Return the values of two lists, each from the first or the second one."""
    of_first, of_second = iter(first), iter(second)
    return [next(of_first) if is_next else next(of_second) for is_next in is_first]
