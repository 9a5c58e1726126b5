"""Samples that were read and wait for their micro-batch, column by column.

Finding samples by id. A hundred thousand small samples wait at once, and are taken in random
order: in columns there is one object to be found in memory for each of their values, and none
for the samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from catalogs.shard_format import Sample, samples_of
from trainers.streaming.index_rows import Ids

# Ids, at least one, ascending; and the values of each column for them.
Columns: TypeAlias = tuple[Ids, Mapping[str, Sequence[Any]]]

_NO_IDS = np.zeros(0, np.int64)


class Waiting:
    """Hands out samples by id, and reads on when one is missing.

    Values are let go of together: once half of them have been taken, the other samples are set
    aside when more are read.
    """

    def __init__(self, read: Iterator[Columns]) -> None:
        self._read = read
        self._values: dict[str, list[Any]] = {}
        # Ascending, one for each value of a column; of `_added` not yet joined.
        self._ids = _NO_IDS
        self._added: list[Ids] = []
        # Where in `_ids` runs of consecutive ones begin, and with which: what is read together
        # mostly is one run, and in few of them a sample is found soon.
        self._starts, self._firsts = _NO_IDS, _NO_IDS
        self._taken = np.zeros(0, np.bool_)
        self._set_aside: dict[int, Sample] = {}

    def take(self, ids: Ids) -> list[Sample]:
        """The samples of `ids`, which are not here any longer."""
        places, are_here = self._find(ids)
        if not are_here.all():
            self._read_on(set(ids[~are_here].tolist()) - self._set_aside.keys())
            places, are_here = self._find(ids)
        self._taken[places[are_here]] = True
        if are_here.all():
            return self._at(places)
        here = iter(self._at(places[are_here]))
        return [
            next(here) if is_here else self._set_aside.pop(number)
            for number, is_here in zip(ids.tolist(), are_here.tolist(), strict=True)
        ]

    def _read_on(self, lacking: set[int]) -> None:
        """Until none is lacking."""
        while lacking:
            ids, values = next(self._read)
            last = self._added[-1] if self._added else self._ids
            is_new = len(last) and (ids[0] <= last[-1] or 2 * self._taken.sum() > len(self._ids))
            if is_new or not self._values:
                self._begin(values)
            for name, found in values.items():
                self._values[name] += found
            self._added.append(ids)
            lacking.difference_update(ids.tolist())

    def _begin(self, columns: Iterable[str]) -> None:
        self._join()
        places = np.flatnonzero(~self._taken)
        numbers = self._ids[places].tolist()
        self._set_aside |= zip(numbers, self._at(places), strict=True)
        self._ids, self._taken = _NO_IDS, self._taken[:0]
        self._values = {name: [] for name in columns}

    def _find(self, ids: Ids) -> tuple[Ids, Any]:
        """Where they are in the columns, and which are there and not taken."""
        self._join()
        if not len(self._ids):
            return ids, np.zeros(len(ids), np.bool_)
        runs = np.maximum(np.searchsorted(self._firsts, ids, side="right") - 1, 0)
        places = self._starts[runs] + ids - self._firsts[runs]
        places = np.clip(places, 0, len(self._ids) - 1)
        # An id that was taken is that of an earlier epoch.
        return places, (self._ids[places] == ids) & ~self._taken[places]

    def _join(self) -> None:
        if self._added:
            self._ids = np.concatenate([self._ids, *self._added])
            self._added = []
            self._starts = np.flatnonzero(np.diff(self._ids, prepend=-2) != 1)
            self._firsts = self._ids[self._starts]
            num_new = len(self._ids) - len(self._taken)
            self._taken = np.append(self._taken, np.zeros(num_new, np.bool_))

    def _at(self, places: Ids) -> list[Sample]:
        numbers = places.tolist()
        values = {name: [found[place] for place in numbers] for name, found in self._values.items()}
        return samples_of(values, num_samples=len(numbers))
