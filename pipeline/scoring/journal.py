"""The journal of a span: which of its rows are in flight, so that a sample that kills is found.

Writing it while a span is measured, and what a journal that was left behind says. Not here:
measuring (`worker.py`). A worker process that dies leaves its journal; the next attempt at the
span probes the rows that were in flight, a group at a time, each noted before it is tried. So
every death leaves 64 times fewer suspects, until one row was alone when the process died.
Twice, since a process may also be ended for reasons of its own; then the row is left out.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from attent_select.errors import MissingError
from catalogs import storage
from catalogs.shard_format import Sample

_GROUPS = 64
_DEATHS_ALONE = 2


@dataclass(frozen=True)
class Suspects:
    """What is known when an attempt at a span begins.

    `rows` (first, end) were in flight when the attempt before died; `alone` counts the deaths of
    single rows while nothing else was in flight; `killers` are the rows to leave out.
    """

    rows: tuple[int, int] = (0, 0)
    alone: dict[int, int] = field(default_factory=dict)
    killers: tuple[int, ...] = ()

    def groups(self) -> list[range]:
        """The suspect rows in at most 64 groups; none when there is nothing to look for."""
        first, end = self.rows
        size = max(1, -(-(end - first) // _GROUPS))
        return [range(start, min(start + size, end)) for start in range(first, end, size)]


class Journal:
    """The journal at `url` for an attempt that starts now."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._in_flight: set[int] = set()
        self.suspects = _read(url)

    def probing(self, rows: range) -> None:
        """`rows` are tried next, and nothing else."""
        self._write((rows.start, rows.stop), probing=True)

    def noting(
        self, samples: Iterable[tuple[int, Sample]], *, window: int, end: int
    ) -> Iterator[tuple[int, Sample]]:
        """`samples` of rows before `end`, noted as in flight before they are handed on, `window`
        at a time.
        """
        noted = 0
        for row, sample in samples:
            with self._lock:
                self._in_flight.add(row)
                first = min(self._in_flight) if row >= noted else row
            if row >= noted:
                noted = min(row + window, end)
                self._write((first, noted), probing=False)
            yield row, sample

    def finished(self, rows: Sequence[int]) -> None:
        """`rows` have their result."""
        with self._lock:
            self._in_flight.difference_update(rows)

    def close(self) -> None:
        """The span's file is there: nobody needs to know any more."""
        storage.delete(self._url)

    def _write(self, rows: tuple[int, int], *, probing: bool) -> None:
        known = asdict(self.suspects) | {"rows": rows, "probing": probing}
        storage.publish(self._url, json.dumps(known).encode())


def _read(url: str) -> Suspects:
    try:
        found = json.loads(storage.read(url))
    except MissingError:
        return Suspects()
    first, end = found["rows"]
    alone = {int(row): count for row, count in found["alone"].items()}
    killers = tuple(found["killers"])
    if found["probing"] and end - first == 1:
        alone[first] = alone.get(first, 0) + 1
        if alone[first] >= _DEATHS_ALONE:
            return Suspects(alone=alone, killers=(*killers, first))
    return Suspects(rows=(first, end), alone=alone, killers=killers)
