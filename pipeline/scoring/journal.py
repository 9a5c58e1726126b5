"""The journal of a span: the rows in flight, so that a poison sample is found.

A worker process that dies leaves its journal behind. The next attempt at the span probes the rows
that were in flight, one group at a time, and notes each group before it is tried. Every death thus
leaves 64 times fewer suspects, until a single row was in flight when the process died. After two
such deaths (a process may also end for other reasons) the row is skipped.
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
    """What earlier attempts at a span have shown.

    Attributes:
        rows: first and end of the rows that were in flight when the last attempt died.
        alone: row → deaths while no other row was in flight.
        killers: poison rows, which are skipped.
    """

    rows: tuple[int, int] = (0, 0)
    alone: dict[int, int] = field(default_factory=dict)
    killers: tuple[int, ...] = ()

    def groups(self) -> list[range]:
        """Return the suspect rows in at most 64 groups; no group if there are no suspects."""
        first, end = self.rows
        size = max(1, -(-(end - first) // _GROUPS))
        return [range(start, min(start + size, end)) for start in range(first, end, size)]


class Journal:
    """The journal at `url` of an attempt that starts now."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._in_flight: set[int] = set()
        self.suspects = _read(url)

    def note_probe(self, rows: range) -> None:
        """Note that only `rows` are tried next."""
        self._write((rows.start, rows.stop), probing=True)

    def note_samples(
        self, samples: Iterable[tuple[int, Sample]], *, window: int, end: int
    ) -> Iterator[tuple[int, Sample]]:
        """Yield `samples`, whose rows are before `end`; note `window` rows at a time as in flight
        before the first of them is yielded.
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

    def note_rows(self, rows: range) -> None:
        """Note that only `rows` are measured next."""
        self._write((rows.start, rows.stop), probing=False)

    def note_finished(self, rows: Sequence[int]) -> None:
        """Note that `rows` have their result."""
        with self._lock:
            self._in_flight.difference_update(rows)

    def close(self) -> None:
        """Delete the journal: the span file exists."""
        storage.delete(self._url)

    def _write(self, rows: tuple[int, int], *, probing: bool) -> None:
        known = asdict(self.suspects) | {"rows": rows, "probing": probing}
        storage.publish(self._url, json.dumps(known).encode())


def _read(url: str) -> Suspects:
    try:
        entry = json.loads(storage.read(url))
    except MissingError:
        return Suspects()
    first, end = entry["rows"]
    alone = {int(row): count for row, count in entry["alone"].items()}
    killers = tuple(entry["killers"])
    if entry["probing"] and end - first == 1:
        alone[first] = alone.get(first, 0) + 1
        if alone[first] >= _DEATHS_ALONE:
            return Suspects(alone=alone, killers=(*killers, first))
    return Suspects(rows=(first, end), alone=alone, killers=killers)
