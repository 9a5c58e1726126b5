"""Finds the shards of a corpus, looks through each once on the cluster, and writes the manifest.

Shard URLs → `Corpus` of a run.
"""

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
    """What a corpus holds: sizes in bytes and samples; `seconds` is 0 if it was ingested before."""

    num_shards: int
    num_samples: int
    num_bytes: int
    corpus_id: str
    seconds: float


@dataclass(frozen=True)
class _Look:
    """One shard to look through. A member index is written to `members_url` by the worker."""

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
    """Writes the manifest of the corpus that `shards` (URLs, folders, globs) name into `folder`.

    Shard ids follow the sorted URLs. Ingesting the same shards again does nothing.

    Raises:
        InputError: a URL names nothing, a shard is damaged or empty, a worker has other versions.
        ExistsError: the folder has another corpus.
    """
    started = monotonic()
    found = storage.expand(shards)
    if (known := ingested(found, folder=folder)) is not None:
        return _result(known, seconds=0.0)
    worker_check.check_workers(client, objects={found[0].url: found[0].etag}, needs_gpu=False)
    corpus = Corpus.from_inspections(_inspections(found, folder=folder, client=client))
    corpus.publish(folder)
    return _result(corpus, seconds=monotonic() - started)


def ingested(found: Sequence[ObjectInfo], *, folder: str) -> Corpus | None:
    """The corpus in a folder, if it was ingested; it must be of exactly the objects `found`.

    Raises:
        ExistsError: there is a corpus of other shards.
        CorpusMismatchError: a shard has changed since.
    """
    if not has_corpus(folder):
        return None
    corpus = Corpus.open(folder)
    if [shard.uri for shard in corpus.shards] != [stored.url for stored in found]:
        raise ExistsError(
            f"{folder} has a corpus of {len(corpus.shards)} other shards (corpus "
            f"{corpus.corpus_id}), and a corpus never changes: choose another folder"
        )
    for shard, stored in zip(corpus.shards, found, strict=True):
        if shard.etag != stored.etag:
            raise CorpusMismatchError(
                f"{shard.uri} is not the object that was ingested as shard {shard.shard_id}: its "
                f"etag is {stored.etag}, expected {shard.etag}. Put it back, or start a new run"
            )
    return corpus


def shard_objects(corpus: CorpusSettings) -> list[ObjectInfo]:
    """Return the shards that a configuration names, as they are stored now.

    Raises:
        InputError: a URL names nothing.
        MissingError: there is no shared corpus, or a shard of it was deleted.
    """
    if corpus.path is None:
        return storage.expand(corpus.shards or ())
    opened = Corpus.open(corpus.path)
    found = ordered_map(lambda shard: storage.expand([shard.uri])[0], opened.shards, num_threads=16)
    return list(found)


def _inspections(
    found: Sequence[ObjectInfo], *, folder: str, client: Client
) -> list[tuple[ObjectInfo, str, Inspection]]:
    layout = CorpusLayout(folder)
    looks = [
        _Look(shard_id, stored, format_of(stored.url), layout.members(shard_id))
        for shard_id, stored in enumerate(found)
    ]
    inspections: dict[int, Inspection] = {}
    with progress("ingesting", total=len(looks), unit="shards") as advance:
        for look, inspection in run_tasks(client, _inspect, looks):
            inspections[look.shard_id] = inspection
            advance(1)
    return [(look.stored, look.format, inspections[look.shard_id]) for look in looks]


def _inspect(look: _Look) -> Inspection:
    return inspect_shard(look.stored.url, look.format, members_url=look.members_url)


def _result(corpus: Corpus, *, seconds: float) -> IngestResult:
    return IngestResult(
        num_shards=len(corpus.shards),
        num_samples=corpus.num_samples,
        num_bytes=corpus.num_bytes,
        corpus_id=corpus.corpus_id,
        seconds=seconds,
    )
