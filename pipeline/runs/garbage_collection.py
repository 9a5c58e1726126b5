"""Garbage collection (`attent gc`): remove what no later stage of a run will read.

Removes superseded losses (snapshots of finished rounds except the newest, and parts that no other
snapshot references) and orphans (parts, spans, journals and plans of abandoned scoring, compact
shards of finished rounds, half-written files after a crash). Keeps checkpoints, indexes and
metrics, which are a run's result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from attent_select.errors import MissingError
from catalogs import AnnotationStore, Corpus, LossCatalog, storage
from catalogs.annotations.record_versions import versions_of
from catalogs.corpus import has_corpus
from catalogs.layout import CorpusLayout, Layout, join
from catalogs.losses.pools import pool_rounds
from catalogs.storage.objects import ObjectInfo
from catalogs.tables import frames
from pipeline import metrics
from pipeline.runs.lease import hold_lease


@dataclass(frozen=True)
class GarbageReport:
    """Number of removed files by kind, and their bytes; with `dry_run`, what would be removed."""

    num_bytes: int
    dry_run: bool
    snapshots: int = 0
    parts: int = 0
    spans: int = 0
    journals: int = 0
    plans: int = 0
    compact: int = 0
    annotation_parts: int = 0
    annotation_models: int = 0
    leftovers: int = 0


def collect_garbage(run: str, *, dry_run: bool = False) -> GarbageReport:
    """Remove superseded losses and orphans of `run`.

    Afterwards the losses of rounds before the newest are gone: `attent report` and `attent select
    --round` only know what is left.

    Raises:
        MissingError: there is no run.
        ExistsError: a driver works on it.
    """
    run = storage.normalise(run)
    if not has_corpus(run):
        raise MissingError(f"{run} is not a run or a corpus: it has no manifest.parquet")
    is_run = storage.info(Layout(run).corpus.manifest) is not None
    if dry_run or not is_run:
        garbage = _garbage(run, is_run=is_run)
        for files in [] if dry_run else garbage.values():
            storage.delete_all(file.url for file in files)
        return _report(garbage, dry_run=dry_run)
    with hold_lease(run):
        garbage = _garbage(run, is_run=True)
        # Snapshots first: no snapshot may reference a removed part.
        for files in garbage.values():
            storage.delete_all(file.url for file in files)
        return _report(garbage, dry_run=False)


def _garbage(url: str, *, is_run: bool) -> dict[str, list[ObjectInfo]]:
    """Return the files to remove by kind, of a run or of a corpus that stands on its own.

    Annotations of a shared corpus are only collected in the corpus itself.
    """
    if not is_run:
        return _annotation_garbage(url)
    garbage = _Garbage(url).by_kind()
    if Corpus.open(url).folder != Layout(url).corpus.folder:
        return garbage
    return _annotation_garbage(url) | garbage


def _annotation_garbage(url: str) -> dict[str, list[ObjectInfo]]:
    """Return replaced parts and fitted models of annotations that are finished.

    An annotation without a record may still be in the making: only its parts are removed once the
    record of another making exists, or after it was dropped and has no spans.
    """
    store = AnnotationStore(url)
    layout = CorpusLayout(Corpus.open(url).folder)
    parts: list[ObjectInfo] = []
    fitted: list[ObjectInfo] = []
    files = storage.list_objects(layout.annotations)
    names = {file.url.removeprefix(f"{layout.annotations}/").partition("/")[0] for file in files}
    finished = set(store.names())
    for name in sorted(names):
        paths = layout.annotation(name)
        if storage.list_objects(paths.spans) or storage.list_objects(paths.journals):
            continue  # in the making
        # Those for earlier versions of the corpus have readers: runs that continue with them.
        records = versions_of(paths)
        if name in finished:
            records.append(store.incomplete(name) or store.read(name))
        parts += _all_except(paths.parts, {part.part for one in records for part in one.parts})
        kept = tuple(join(paths.fitted, one.digests.get("fit", "none")) + "/" for one in records)
        models = storage.list_objects(paths.fitted)
        fitted += [file for file in models if not file.url.startswith(kept)]
    leftovers = storage.leftovers(layout.folder)
    return {"annotation_parts": parts, "annotation_models": fitted, "leftovers": leftovers}


class _Garbage:
    """The files that can be removed."""

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
        # A partial round has no plan: only its own driver knows which spans it will resume with.
        self._is_rescoring = (
            any(
                int(_stem(file)) not in self._scored
                for file in storage.list_objects(self._layout.all_rescored)
            )
            or self._is_scoring_a_pool()
        )

    def by_kind(self) -> dict[str, list[ObjectInfo]]:
        """Return the files by kind, in the order of removal."""
        layout = self._layout
        snapshots = storage.list_objects(layout.snapshots)
        plans = storage.list_objects(layout.plans)
        return {
            "snapshots": [file for file in snapshots if int(_stem(file)) not in self._kept],
            "parts": _all_except(layout.parts, self._parts),
            "spans": self._orphans(layout.spans),
            "journals": self._orphans(layout.journals),
            "plans": [file for file in plans if int(_stem(file)) in self._scored],
            "compact": [
                file
                for file in storage.list_objects(layout.all_compact)
                if metrics.read(self._run, _round_of(file, layout)) is not None
            ],
            "leftovers": storage.leftovers(self._run),
        }

    def _is_scoring_a_pool(self) -> bool:
        """Whether the candidates of an unfinished round may be in measurement."""
        measured = pool_rounds(self._run)
        drawn = (int(_stem(file)) for file in storage.list_objects(self._layout.all_candidates))
        return any(n not in measured and metrics.read(self._run, n) is None for n in drawn)

    def _orphans(self, folder: str) -> list[ObjectInfo]:
        return [] if self._is_rescoring else _all_except(folder, self._spans)

    def _unfinished_spans(self) -> Iterator[str]:
        """Yield the spans of scoring that may be resumed."""
        for file in storage.list_objects(self._layout.plans):
            if int(_stem(file)) not in self._scored:
                try:
                    plan, _ = frames.read_frame(file.url, schema={"digest": pl.String})
                except MissingError:  # its driver has just published
                    continue
                yield from plan["digest"]


def _report(garbage: Mapping[str, Sequence[ObjectInfo]], *, dry_run: bool) -> GarbageReport:
    counts = {kind: len(files) for kind, files in garbage.items()}
    num_bytes = sum(file.num_bytes for files in garbage.values() for file in files)
    return GarbageReport(**counts, num_bytes=num_bytes, dry_run=dry_run)


def _all_except(folder: str, kept: set[str]) -> list[ObjectInfo]:
    return [file for file in storage.list_objects(folder) if _stem(file) not in kept]


def _round_of(file: ObjectInfo, layout: Layout) -> int:
    """Return the round of a file in a folder of compact shards."""
    return int(file.url.removeprefix(layout.all_compact).lstrip("/").partition("-")[0])


def _stem(file: ObjectInfo) -> str:
    return file.url.rpartition("/")[2].partition(".")[0]
