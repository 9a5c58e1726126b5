"""`attent gc`: removes what no later stage of a run will read.

Superseded losses (snapshots of rounds that are finished, but for the newest, and the parts that
no other snapshot names) and orphans (parts, spans, journals and plans of scoring that was given
up, compact shards of finished rounds, files that a crash left half written). Not here:
checkpoints, indexes and metrics, which are a run's result.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from attent_select.errors import MissingError
from catalogs import LossCatalog, storage
from catalogs.layout import Layout
from catalogs.storage.objects import ObjectInfo
from catalogs.tables import frames
from pipeline import metrics
from pipeline.runs import lease


@dataclass(frozen=True)
class Collected:
    """What was removed, or with `dry_run` would be: numbers of files, and their bytes."""

    snapshots: int
    parts: int
    spans: int
    journals: int
    plans: int
    compact: int
    leftovers: int
    num_bytes: int
    dry_run: bool


def collect(run: str, *, dry_run: bool = False) -> Collected:
    """Removes superseded losses and orphans of `run`. Run it as often as you like.

    Afterwards the losses of rounds before the newest are gone: `attent report` and `attent select
    --round` know only what is left.

    Raises:
        MissingError: there is no run.
        ExistsError: a driver works on it.
    """
    run = storage.normalise(run)
    if storage.info(Layout(run).manifest) is None:
        raise MissingError(f"{run} is no run: expected {Layout(run).manifest}")
    if dry_run:
        return _collected(_Garbage(run), dry_run=True)
    with lease.held(run):
        garbage = _Garbage(run)
        result = _collected(garbage, dry_run=False)
        # Snapshots first: a part that is gone must not be named by one that is there.
        for found in garbage.by_kind().values():
            storage.delete_all(one.url for one in found)
        return result


class _Garbage:
    """What can go, by kind, in the order of removal."""

    def __init__(self, run: str) -> None:
        self._run, self._layout = run, Layout(run)
        catalog = LossCatalog(run)
        self._scored = set(catalog.rounds())
        newest = max(self._scored, default=None)
        self._kept = {
            number
            for number in self._scored
            if number == newest or metrics.read(run, number) is None
        }
        self._parts: set[str] = set()
        for number in self._kept:
            snapshot = catalog.snapshot(number)
            self._parts |= set() if snapshot is None else set(snapshot["part"])
        self._spans = set(self._unfinished_spans())
        # A partial round has no plan: what it goes on with is known to its own driver.
        self._is_rescoring = any(
            int(_stem(one)) not in self._scored
            for one in storage.list_objects(self._layout.all_rescored)
        )

    def by_kind(self) -> dict[str, list[ObjectInfo]]:
        layout = self._layout
        return {
            "snapshots": [
                one
                for one in storage.list_objects(layout.snapshots)
                if int(_stem(one)) not in self._kept
            ],
            "parts": _except(layout.parts, self._parts),
            "spans": self._orphans(layout.spans),
            "journals": self._orphans(layout.journals),
            "plans": [
                one for one in storage.list_objects(layout.plans) if int(_stem(one)) in self._scored
            ],
            "compact": [
                one
                for one in storage.list_objects(layout.all_compact)
                if metrics.read(self._run, _round_of(one, layout)) is not None
            ],
            "leftovers": storage.leftovers(self._run),
        }

    def _orphans(self, folder: str) -> list[ObjectInfo]:
        return [] if self._is_rescoring else _except(folder, self._spans)

    def _unfinished_spans(self) -> Iterator[str]:
        """The spans of scoring that may still go on."""
        for one in storage.list_objects(self._layout.plans):
            if int(_stem(one)) not in self._scored:
                try:
                    plan, _ = frames.read_frame(one.url, schema={"digest": pl.String})
                except MissingError:  # its driver has just published
                    continue
                yield from plan["digest"]


def _collected(garbage: _Garbage, *, dry_run: bool) -> Collected:
    found = garbage.by_kind()
    counts = {kind: len(files) for kind, files in found.items()}
    num_bytes = sum(one.num_bytes for files in found.values() for one in files)
    return Collected(**counts, num_bytes=num_bytes, dry_run=dry_run)


def _except(folder: str, keep: set[str]) -> list[ObjectInfo]:
    return [one for one in storage.list_objects(folder) if _stem(one) not in keep]


def _round_of(found: ObjectInfo, layout: Layout) -> int:
    """Of a file in a folder of compact shards."""
    return int(found.url.removeprefix(layout.all_compact).lstrip("/").partition("-")[0])


def _stem(found: ObjectInfo) -> str:
    return found.url.rpartition("/")[2].partition(".")[0]
