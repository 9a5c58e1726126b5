"""Ingestion: find the shards of a corpus, inspect each on the cluster, write the manifest."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from attent_select.errors import CorpusMismatchError, ExistsError, InputError
from catalogs import Corpus, storage
from catalogs.concurrency import ordered_map
from catalogs.corpus import EMPTY, SkippedShard, has_corpus
from catalogs.layout import CorpusLayout
from catalogs.shard_format import Inspection
from catalogs.shard_search import find_shards
from catalogs.shards import format_of, inspect_shard, keeps_members
from catalogs.storage.objects import ObjectInfo
from catalogs.tars.compressed import is_compressed
from pipeline.cluster import Client, run_tasks, worker_check
from pipeline.config.shard_settings import CorpusSettings
from pipeline.progress import progress

_log = logging.getLogger("attent.pipeline.ingest")


@dataclass(frozen=True)
class IngestResult:
    """Size of a corpus; `seconds` is 0 if it was ingested before.

    `empty` is the number of shards without samples, `damaged` the reason for each shard that was
    skipped because it cannot be read.
    """

    num_shards: int
    num_samples: int
    num_bytes: int
    corpus_id: str
    seconds: float
    empty: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _ShardTask:
    """A shard to inspect; the worker writes a member index to `members_url`."""

    shard_id: int
    stored: ObjectInfo
    format: str
    members_url: str
    skip_damaged: bool

    def __str__(self) -> str:
        return f"shard {self.shard_id} ({self.stored.url})"


def ingest(
    shards: Sequence[str],
    *,
    folder: str,
    client: Client,
    skip_damaged: bool = False,
    names: Mapping[str, str] | None = None,
) -> IngestResult:
    """Write the manifest of the corpus of `shards` (URLs, folders, globs) into `folder`.

    Shard ids follow the sorted URLs. Shards without samples are skipped, with `skip_damaged` also
    those that cannot be read. `names` are those of the parts of a mixture, by URL. Ingesting the
    same shards again does nothing.

    Raises:
        InputError: a URL matches nothing, no shard has samples, a shard is damaged, or a worker has
            other versions.
        ExistsError: the folder has another corpus.
    """
    started = monotonic()
    objects = find_shards(shards)
    if (existing := ingested_corpus(objects, folder=folder)) is not None:
        return result_of(existing, seconds=0.0)
    corpus = inspect_corpus(objects, folder=folder, client=client, skip_damaged=skip_damaged)
    if names is not None:
        corpus = replace(corpus, names=tuple(names[shard.uri] for shard in corpus.shards))
    corpus.publish(folder)
    return result_of(corpus, seconds=monotonic() - started)


def inspect_corpus(
    objects: Sequence[ObjectInfo],
    *,
    folder: str,
    client: Client,
    skip_damaged: bool,
    first_id: int = 0,
    columns: Sequence[str] = (),
) -> Corpus:
    """Return a corpus of shards; member indexes are written, for ids from `first_id`.

    Warns about shards that are skipped. Each of the others must have `columns`.

    Raises:
        InputError: no shard has samples, or a shard is damaged or lacks a column.
    """
    worker_check.check_workers(client, objects={objects[0].url: objects[0].etag}, needs_gpu=False)
    kept, damaged = [], []
    for stored, kind, inspection in _inspections(
        objects, folder=folder, client=client, skip_damaged=skip_damaged, first_id=first_id
    ):
        if isinstance(inspection, str):
            damaged.append(SkippedShard(stored.url, stored.etag, inspection))
            continue
        missing = [name for name in columns if name not in inspection.columns]
        if missing and inspection.num_samples:
            raise InputError(
                f"{stored.url} has no column {', '.join(missing)}, which every shard of the corpus"
                f" has; it has {', '.join(inspection.columns)}"
            )
        kept.append((stored, kind, inspection))
    corpus = Corpus.from_inspections(kept, skipped=damaged)
    _renumber_members(corpus, objects, folder=folder, first_id=first_id)
    _warn(corpus)
    return corpus


def _warn(corpus: Corpus) -> None:
    if num_compressed := sum(is_compressed(shard.uri) for shard in corpus.shards):
        _log.warning(
            "%d shards are compressed tars: every read of samples takes a whole shard. Plain tars"
            " or Parquet are read in parts (--convert)",
            num_compressed,
        )
    if num_empty := sum(each.reason == EMPTY for each in corpus.skipped):
        _log.warning("skipped %d shards without samples", num_empty)
    for each in corpus.skipped:
        if each.reason != EMPTY:
            _log.warning("skipped %s, which cannot be read: %s", each.uri, each.reason)


def ingested_corpus(objects: Sequence[ObjectInfo], *, folder: str) -> Corpus | None:
    """Return the corpus in `folder` if it was ingested; its shards must be `objects`, skipped ones
    included, and those that were appended.

    Raises:
        ExistsError: the folder has a corpus of other shards.
        CorpusMismatchError: a shard has changed since.
    """
    if not has_corpus(folder):
        return None
    corpus = Corpus.open(folder)
    known = {shard.uri: shard.etag for shard in corpus.shards}
    known |= {each.uri: each.etag for each in corpus.skipped}
    urls = {stored.url for stored in objects}
    if added := sorted(urls - known.keys()):
        raise ExistsError(
            f"{folder} has a corpus of {len(corpus.shards)} other shards (corpus "
            f"{corpus.corpus_id}), without {added[0]}: add new shards with `attent ingest --append"
            f" --out {folder}`, or choose another folder"
        )
    first = corpus.versions[0].num_shards if corpus.versions else len(corpus.shards)
    if missing := [shard.uri for shard in corpus.shards[:first] if shard.uri not in urls]:
        raise ExistsError(
            f"{folder} has a corpus with {missing[0]}, which is not among the shards to ingest: a"
            " corpus keeps its shards. Choose another folder"
        )
    for stored in objects:
        if known[stored.url] != stored.etag:
            raise CorpusMismatchError(
                f"{stored.url} is not the object that was ingested: its etag is {stored.etag}, "
                f"expected {known[stored.url]}. Put it back, or start a new run"
            )
    return corpus


def shard_objects(corpus: CorpusSettings) -> list[ObjectInfo]:
    """Return the shards that a configuration names, as they are stored now.

    Raises:
        InputError: a URL matches nothing.
        MissingError: there is no shared corpus, or a shard of it was deleted.
    """
    if corpus.path is None:
        return find_shards(corpus.shards or ())
    opened = Corpus.open(corpus.path)
    objects = ordered_map(lambda one: storage.expand([one.uri])[0], opened.shards, num_threads=16)
    return list(objects)


def _inspections(
    objects: Sequence[ObjectInfo],
    *,
    folder: str,
    client: Client,
    skip_damaged: bool,
    first_id: int,
) -> list[tuple[ObjectInfo, str, Inspection | str]]:
    """Return object, format and inspection of each shard, or why it cannot be read."""
    layout = CorpusLayout(folder)
    tasks = [
        _ShardTask(shard_id, stored, format_of(stored.url), layout.members(shard_id), skip_damaged)
        for shard_id, stored in enumerate(objects, start=first_id)
    ]
    inspections: dict[int, Inspection | str] = {}
    with progress("ingesting", total=len(tasks), unit="shards") as advance:
        for task, inspection in run_tasks(client, _inspect, tasks):
            inspections[task.shard_id] = inspection
            advance(1)
    return [(task.stored, task.format, inspections[task.shard_id]) for task in tasks]


def _inspect(task: _ShardTask) -> Inspection | str:
    try:
        return inspect_shard(task.stored.url, task.format, members_url=task.members_url)
    except InputError as error:
        if not task.skip_damaged:
            raise
        return str(error)


def _renumber_members(
    corpus: Corpus, objects: Sequence[ObjectInfo], *, folder: str, first_id: int
) -> None:
    """Move the member indexes, named by position in `objects`, to the ids without skipped shards.

    In ascending order, in which no index replaces one that is still to be moved.
    """
    if not corpus.skipped:
        return
    layout = CorpusLayout(folder)
    id_of = {stored.url: number for number, stored in enumerate(objects, start=first_id)}
    for shard in corpus.shards:
        written, shard_id = id_of[shard.uri], first_id + shard.shard_id
        if written != shard_id and keeps_members(shard.format):
            storage.publish(layout.members(shard_id), storage.read(layout.members(written)))
    for number in range(len(corpus.shards), len(objects)):
        storage.delete(layout.members(first_id + number))


def result_of(corpus: Corpus, *, seconds: float) -> IngestResult:
    """Return the size of a corpus."""
    return IngestResult(
        num_shards=len(corpus.shards),
        num_samples=corpus.num_samples,
        num_bytes=corpus.num_bytes,
        corpus_id=corpus.corpus_id,
        seconds=seconds,
        empty=sum(each.reason == EMPTY for each in corpus.skipped),
        damaged={each.uri: each.reason for each in corpus.skipped if each.reason != EMPTY},
    )
