"""Finds the shards of a corpus, looks through each once on the cluster, and writes the manifest.

Shard URLs → `Corpus` of a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from attent_select.errors import CorpusMismatchError, ExistsError
from catalogs import Corpus, storage
from catalogs.corpus import format_of, inspect_shard
from catalogs.layout import Layout
from catalogs.shard_format import Inspection
from catalogs.storage.objects import ObjectInfo
from pipeline.cluster import Client, run_tasks, worker_check
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
    run: str,
    client: Client,
) -> IngestResult:
    """Writes the manifest of the corpus that `shards` (URLs, folders, globs) name into `run`.

    Shard ids follow the sorted URLs. Ingesting the same shards again does nothing.

    Raises:
        InputError: a URL names nothing, a shard is damaged or empty, a worker has other versions.
        ExistsError: the run has another corpus.
    """
    started = monotonic()
    found = storage.expand(shards)
    if (known := ingested(found, run=run)) is not None:
        return _result(known, seconds=0.0)
    worker_check.check_workers(client, objects={found[0].url: found[0].etag}, needs_gpu=False)
    corpus = Corpus.from_inspections(_inspections(found, run=run, client=client))
    corpus.save(run)
    return _result(corpus, seconds=monotonic() - started)


def ingested(found: Sequence[ObjectInfo], *, run: str) -> Corpus | None:
    """The run's corpus, if it was ingested; it must be of exactly the objects `found`.

    Raises:
        ExistsError: the run has a corpus of other shards.
        CorpusMismatchError: a shard has changed since.
    """
    if storage.info(Layout(run).manifest) is None:
        return None
    corpus = Corpus.open(run)
    if [shard.uri for shard in corpus.shards] != [stored.url for stored in found]:
        raise ExistsError(
            f"{run} has a corpus of {len(corpus.shards)} other shards (corpus "
            f"{corpus.corpus_id}), and a corpus never changes: choose another run"
        )
    for shard, stored in zip(corpus.shards, found, strict=True):
        if shard.etag != stored.etag:
            raise CorpusMismatchError(
                f"{shard.uri} is not the object that was ingested as shard {shard.shard_id}: its "
                f"etag is {stored.etag}, expected {shard.etag}. Put it back, or start a new run"
            )
    return corpus


def _inspections(
    found: Sequence[ObjectInfo], *, run: str, client: Client
) -> list[tuple[ObjectInfo, str, Inspection]]:
    layout = Layout(run)
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
