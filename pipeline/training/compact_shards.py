"""Writes scattered rows of an index once as compact shards, where reading them for several epochs
would cost more.

Whether it pays, and the shards, one Dask task each. A compact shard holds all selected rows of
some consecutive shards of the corpus, in order, in the format of these, with the task's columns
only. It is published whole; the manifest beside them comes last and makes them count. So a
driver or worker may be killed at any moment, and what is there is not written again.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile, storage
from catalogs.corpus import inspect_shard, plan_shard, read_shard, write_shard
from catalogs.index import rows_of_shard
from catalogs.layout import Layout
from catalogs.shard_format import Inspection, Sample, Shard
from catalogs.storage.objects import ObjectInfo
from pipeline.cluster import Client, run_tasks
from pipeline.console import progress

# A compact shard holds about so many bytes at rest.
_SHARD_BYTES = 64 << 20
# Rows that a worker holds at once.
_ROWS_AT_A_TIME = 1024
# The cost of reading is estimated from so many shards.
_SAMPLED_SHARDS = 32
# Less than this saved is not worth starting workers for.
_LEAST_SAVED_SECONDS = 30.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of one connection for one pass: over the corpus, and over compact shards."""

    scattered_seconds: float
    compact_seconds: float

    def saved_seconds(self, *, epochs: int, connections: int) -> float:
        """Over all epochs, by as many connections as training has: writing reads everything once,
        and sends what was selected.
        """
        before = epochs * self.scattered_seconds
        after = self.scattered_seconds + (epochs + 1) * self.compact_seconds
        return (before - after) / connections

    def pays(self, *, epochs: int, connections: int) -> bool:
        """Whether enough is saved."""
        saved = self.saved_seconds(epochs=epochs, connections=connections)
        return saved >= _LEAST_SAVED_SECONDS


def estimate(index: IndexFile, corpus: Corpus, *, columns: Sequence[str]) -> Estimate:
    """From the footers and member indexes of some shards; no sample is read."""
    rows = index.rows_by_shard()
    found = np.array(list(rows))
    places = np.unique(np.linspace(0, len(found) - 1, min(_SAMPLED_SHARDS, len(found)), dtype=int))
    scattered = compact = 0.0
    for shard_id in found[places].tolist():
        shard = corpus.shard(shard_id)
        plan = plan_shard(shard, rows=rows[shard_id][0].tolist(), columns=columns)
        cost = storage.read_cost(shard.uri)
        scattered += cost.seconds(num_requests=len(plan.ranges), num_bytes=plan.num_bytes)
        requests = plan.bytes_selected / _SHARD_BYTES
        compact += cost.seconds(num_requests=requests, num_bytes=plan.bytes_selected)
    share = len(found) / max(len(places), 1)
    return Estimate(scattered * share, compact * share)


def open_compact(folder: str) -> Corpus | None:
    """The compact shards in `folder`, if all of them are there."""
    return Corpus.open(folder) if storage.info(Layout(folder).manifest) is not None else None


def materialise(
    index: IndexFile, corpus: Corpus, *, columns: Sequence[str], folder: str, client: Client
) -> Corpus:
    """The rows of `index` as compact shards in `folder`; what is there already is not written.

    Raises:
        InputError: the index is empty, or values of a column have no common type.
        ClusterError: the cluster was lost; calling again goes on.
    """
    if (known := open_compact(folder)) is not None:
        return known
    if not index.num_samples:
        raise InputError(f"{index.url} selects no row: there is nothing to write compactly")
    tasks = list(_tasks(index, corpus, columns=tuple(columns), folder=folder))
    written: dict[int, tuple[ObjectInfo, Inspection]] = {}
    with progress("compacting", total=len(tasks), unit="shards") as advance:
        for task, result in run_tasks(client, _write, tasks):
            written[task.number] = result
            advance(1)
    found = [(written[task.number][0], task.format, written[task.number][1]) for task in tasks]
    compact = Corpus.from_inspections(found)
    compact.save(folder)
    return Corpus.open(folder)


def folder_of(run: str, round_number: int, index: IndexFile, *, columns: Sequence[str]) -> str:
    """Where the compact shards of a round's index are: named by all that they are made from."""
    facts = [index.digest, index.provenance.get("corpus_id"), sorted(columns)]
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    return Layout(run).compact(round_number, digest)


@dataclass(frozen=True)
class _Task:
    """One compact shard, and the shards whose selected rows it holds."""

    number: int
    index: str
    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    layout: Layout

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
) -> Iterator[_Task]:
    counts: dict[int, int] = {}
    for shard_ids, _, _ in index.batches():
        for shard_id, count in zip(*np.unique(shard_ids, return_counts=True), strict=True):
            counts[int(shard_id)] = counts.get(int(shard_id), 0) + int(count)
    group_of, group, filled = {}, 0, 0.0
    for shard_id, count in counts.items():
        shard = corpus.shard(shard_id)
        size = count * shard.num_bytes / max(shard.num_samples, 1)
        if filled and filled + size > _SHARD_BYTES:
            group, filled = group + 1, 0.0
        group_of[shard_id], filled = group, filled + size
    layout = Layout(folder)
    # One format for each.
    runs = groupby(counts, key=lambda shard_id: (group_of[shard_id], corpus.shard(shard_id).format))
    for number, (_, shard_ids) in enumerate(runs):
        shards = tuple(corpus.shard(shard_id) for shard_id in shard_ids)
        yield _Task(number, index.url, shards, columns, layout)


def _write(task: _Task) -> tuple[ObjectInfo, Inspection]:
    """On a worker: the shard's place, and what is in it."""
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


def _samples(task: _Task) -> Iterator[Sample]:
    for shard in task.shards:
        rows = iter(rows_of_shard(task.index, shard.shard_id).tolist())
        while some := list(islice(rows, _ROWS_AT_A_TIME)):
            yield from read_shard(shard, rows=some, columns=task.columns).samples
