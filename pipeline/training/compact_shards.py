"""Compact shards: the rows of an index, written once instead of read scattered in every epoch.

A compact shard holds all selected rows of consecutive shards of the corpus, in order and in their
format, with the task's columns only. One Dask task writes it. The manifest beside the shards is
published last and commits them; after a kill, existing shards are not written again.
"""

import hashlib
import json
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile, storage
from catalogs.corpus import has_corpus
from catalogs.index import rows_of_shard
from catalogs.layout import CorpusLayout, Layout
from catalogs.shard_format import Inspection, Sample, Shard
from catalogs.shards import inspect_shard, plan_shard, read_shard, write_shard
from catalogs.storage.objects import ObjectInfo
from pipeline.cluster import Client, run_tasks
from pipeline.progress import progress

# Size of a compact shard, about.
_SHARD_BYTES = 64 << 20
# Rows that a worker holds in memory.
_CHUNK_ROWS = 1024
# The cost of reading is estimated from this many shards.
_SAMPLED_SHARDS = 32
# A smaller saving is not worth starting workers.
_MIN_SAVED_SECONDS = 30.0


@dataclass(frozen=True)
class ReadEstimate:
    """Seconds that one connection takes to read the rows once: scattered, and compact."""

    scattered_seconds: float
    compact_seconds: float

    def saved_seconds(self, *, epochs: int, connections: int) -> float:
        """Return the seconds saved over all epochs; writing reads scattered rows once and sends
        them.
        """
        before = epochs * self.scattered_seconds
        after = self.scattered_seconds + (epochs + 1) * self.compact_seconds
        return (before - after) / connections

    def pays(self, *, epochs: int, connections: int) -> bool:
        """Whether enough is saved."""
        saved = self.saved_seconds(epochs=epochs, connections=connections)
        return saved >= _MIN_SAVED_SECONDS


def estimate(index: IndexFile, corpus: Corpus, *, columns: Sequence[str]) -> ReadEstimate:
    """Estimate from the footers and member indexes of some shards; no sample is read."""
    rows = index.rows_by_shard()
    shard_ids = np.array(list(rows))
    num_shards = len(shard_ids)
    positions = np.linspace(0, num_shards - 1, min(_SAMPLED_SHARDS, num_shards), dtype=int)
    positions = np.unique(positions)
    scattered = compact = 0.0
    for shard_id in shard_ids[positions].tolist():
        shard = corpus.shard(shard_id)
        plan = plan_shard(shard, rows=rows[shard_id][0].tolist(), columns=columns)
        cost = storage.read_cost(shard.uri)
        scattered += cost.seconds(num_requests=len(plan.ranges), num_bytes=plan.num_bytes)
        requests = plan.bytes_selected / _SHARD_BYTES
        compact += cost.seconds(num_requests=requests, num_bytes=plan.bytes_selected)
    factor = num_shards / max(len(positions), 1)
    return ReadEstimate(scattered * factor, compact * factor)


def open_compact(folder: str) -> Corpus | None:
    """Open the compact shards in `folder`; None until all of them are written."""
    return Corpus.open(folder) if has_corpus(folder) else None


def materialise(
    index: IndexFile, corpus: Corpus, *, columns: Sequence[str], folder: str, client: Client
) -> Corpus:
    """Write the rows of `index` as compact shards to `folder`; existing shards are kept.

    Raises:
        InputError: the index is empty, or values of a column have no common type.
        ClusterError: the cluster was lost; call again to resume.
    """
    if (corpus_in_folder := open_compact(folder)) is not None:
        return corpus_in_folder
    if not index.num_samples:
        raise InputError(f"{index.url} selects no row: there are no compact shards to write")
    tasks = list(_tasks(index, corpus, columns=tuple(columns), folder=folder))
    written: dict[int, tuple[ObjectInfo, Inspection]] = {}
    with progress("compacting", total=len(tasks), unit="shards") as advance:
        for task, result in run_tasks(client, _write, tasks):
            written[task.number] = result
            advance(1)
    shards = [(written[task.number][0], task.format, written[task.number][1]) for task in tasks]
    Corpus.from_inspections(shards).save(folder)
    return Corpus.open(folder)


def folder_of(run: str, round_number: int, index: IndexFile, *, columns: Sequence[str]) -> str:
    """Return the folder of a round's compact shards, named by what they are made from."""
    facts = [index.digest, index.provenance.get("corpus_id"), sorted(columns)]
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    return Layout(run).compact(round_number, digest)


@dataclass(frozen=True)
class _ShardTask:
    """Write one compact shard: the selected rows of `shards`."""

    number: int
    index: str
    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    layout: CorpusLayout

    @property
    def format(self) -> str:
        return self.shards[0].format

    @property
    def url(self) -> str:
        suffix = self.shards[0].uri.rpartition(".")[2]
        return f"{self.layout.converted_shards}/{self.number:06d}.{suffix}"

    def __str__(self) -> str:
        return f"compact shard {self.number} of {self.shards[0].uri} and the following"


def _tasks(
    index: IndexFile, corpus: Corpus, *, columns: tuple[str, ...], folder: str
) -> Iterator[_ShardTask]:
    counts: dict[int, int] = {}
    for shard_ids, _, _ in index.batches():
        for shard_id, count in zip(*np.unique(shard_ids, return_counts=True), strict=True):
            counts[int(shard_id)] = counts.get(int(shard_id), 0) + int(count)
    layout = Layout(folder).corpus
    for number, group in enumerate(_group_shards(counts, corpus)):
        shards = tuple(corpus.shard(shard_id) for shard_id in group)
        yield _ShardTask(number, index.url, shards, columns, layout)


def _group_shards(counts: Mapping[int, int], corpus: Corpus) -> Iterator[list[int]]:
    """Group consecutive shards of one format whose selected rows fill a compact shard.

    `counts`: shard id → selected rows.
    """
    group_of: dict[int, int] = {}
    group, filled = 0, 0.0
    for shard_id, count in counts.items():
        shard = corpus.shard(shard_id)
        size = count * shard.num_bytes / max(shard.num_samples, 1)
        if filled and filled + size > _SHARD_BYTES:
            group, filled = group + 1, 0.0
        group_of[shard_id], filled = group, filled + size
    key_of = {shard_id: (group_of[shard_id], corpus.shard(shard_id).format) for shard_id in counts}
    for _, shard_ids in groupby(counts, key=key_of.__getitem__):
        yield list(shard_ids)


def _write(task: _ShardTask) -> tuple[ObjectInfo, Inspection]:
    """Write the shard on a worker, unless it exists; return where it is and what it holds."""
    if storage.info(task.url) is None:
        with tempfile.TemporaryDirectory(prefix="attent-") as work:
            path = Path(work) / task.url.rpartition("/")[2]
            with closing(_samples(task)) as samples:
                write_shard(path, samples, format_name=task.format)
            storage.publish(task.url, path)
    stored = storage.info(task.url)
    assert stored is not None
    members = task.layout.members(task.number)
    return stored, inspect_shard(task.url, task.format, members_url=members)


def _samples(task: _ShardTask) -> Generator[Sample, None, None]:
    for shard in task.shards:
        rows = iter(rows_of_shard(task.index, shard.shard_id).tolist())
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            yield from read_shard(shard, rows=chunk, columns=task.columns).samples
