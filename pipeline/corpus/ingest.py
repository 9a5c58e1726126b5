"""Ingestion: find the shards of a corpus, inspect each on the cluster, write the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from attent_select.errors import CorpusMismatchError, ExistsError
from catalogs import Corpus, storage
from catalogs.concurrency import ordered_map
from catalogs.corpus import format_of, has_corpus, inspect_shard
from catalogs.layout import CorpusLayout
from catalogs.shard_format import Inspection
from catalogs.storage.objects import ObjectInfo
from pipeline.cluster import Client, run_tasks, worker_check
from pipeline.config.sections import CorpusSettings
from pipeline.progress import progress


@dataclass(frozen=True)
class IngestResult:
    """Size of a corpus; `seconds` is 0 if it was ingested before."""

    num_shards: int
    num_samples: int
    num_bytes: int
    corpus_id: str
    seconds: float


@dataclass(frozen=True)
class _ShardTask:
    """A shard to inspect; the worker writes a member index to `members_url`."""

    shard_id: int
    stored: ObjectInfo
    format: str
    members_url: str

    def __str__(self) -> str:
        return f"shard {self.shard_id} ({self.stored.url})"


def ingest(
    shards: Sequence[str],
    *,
    folder: str,
    client: Client,
) -> IngestResult:
    """Write the manifest of the corpus of `shards` (URLs, folders, globs) into `folder`.

    Shard ids follow the sorted URLs. Ingesting the same shards again does nothing.

    Raises:
        InputError: a URL matches nothing, a shard is damaged or empty, or a worker has other
            versions.
        ExistsError: the folder has another corpus.
    """
    started = monotonic()
    objects = storage.expand(shards)
    if (existing := ingested_corpus(objects, folder=folder)) is not None:
        return _result(existing, seconds=0.0)
    worker_check.check_workers(client, objects={objects[0].url: objects[0].etag}, needs_gpu=False)
    corpus = Corpus.from_inspections(_inspections(objects, folder=folder, client=client))
    corpus.publish(folder)
    return _result(corpus, seconds=monotonic() - started)


def ingested_corpus(objects: Sequence[ObjectInfo], *, folder: str) -> Corpus | None:
    """Return the corpus in `folder` if it was ingested; its shards must be exactly `objects`.

    Raises:
        ExistsError: the folder has a corpus of other shards.
        CorpusMismatchError: a shard has changed since.
    """
    if not has_corpus(folder):
        return None
    corpus = Corpus.open(folder)
    if [shard.uri for shard in corpus.shards] != [stored.url for stored in objects]:
        raise ExistsError(
            f"{folder} has a corpus of {len(corpus.shards)} other shards (corpus "
            f"{corpus.corpus_id}), and a corpus cannot be changed: choose another folder"
        )
    for shard, stored in zip(corpus.shards, objects, strict=True):
        if shard.etag != stored.etag:
            raise CorpusMismatchError(
                f"{shard.uri} is not the object that was ingested as shard {shard.shard_id}: its "
                f"etag is {stored.etag}, expected {shard.etag}. Put it back, or start a new run"
            )
    return corpus


def shard_objects(corpus: CorpusSettings) -> list[ObjectInfo]:
    """Return the shards that a configuration names, as they are stored now.

    Raises:
        InputError: a URL matches nothing.
        MissingError: there is no shared corpus, or a shard of it was deleted.
    """
    if corpus.path is None:
        return storage.expand(corpus.shards or ())
    opened = Corpus.open(corpus.path)
    objects = ordered_map(lambda one: storage.expand([one.uri])[0], opened.shards, num_threads=16)
    return list(objects)


def _inspections(
    objects: Sequence[ObjectInfo], *, folder: str, client: Client
) -> list[tuple[ObjectInfo, str, Inspection]]:
    layout = CorpusLayout(folder)
    tasks = [
        _ShardTask(shard_id, stored, format_of(stored.url), layout.members(shard_id))
        for shard_id, stored in enumerate(objects)
    ]
    inspections: dict[int, Inspection] = {}
    with progress("ingesting", total=len(tasks), unit="shards") as advance:
        for task, inspection in run_tasks(client, _inspect, tasks):
            inspections[task.shard_id] = inspection
            advance(1)
    return [(task.stored, task.format, inspections[task.shard_id]) for task in tasks]


def _inspect(task: _ShardTask) -> Inspection:
    return inspect_shard(task.stored.url, task.format, members_url=task.members_url)


def _result(corpus: Corpus, *, seconds: float) -> IngestResult:
    return IngestResult(
        num_shards=len(corpus.shards),
        num_samples=corpus.num_samples,
        num_bytes=corpus.num_bytes,
        corpus_id=corpus.corpus_id,
        seconds=seconds,
    )
