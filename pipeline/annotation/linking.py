"""Clusters of linked samples, such as near duplicates, found on workers from finished spans.

1. A worker reads one link column and keeps the rows of one bucket of its values: samples with equal
   values are together, and each is linked with the first of them.
2. One worker joins the links to clusters (connected components), one file of links at a time. It
   holds about 100 bytes for each linked sample, whatever the number of links, and nothing for the
   other samples.
3. The parts are built from the spans and the clusters.

Each step is a function of the values alone: the clusters do not depend on the workers.
"""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID, STATUS, sample_key
from catalogs.annotations.store import VALUE, BuiltPart
from catalogs.concurrency import ordered_map
from pipeline.annotation.span_work import Making, SpanTask
from pipeline.cluster import Client, run_tasks
from pipeline.scoring.spans import group_into_parts

_IDS: Final = (SHARD_ID, ROW)
_KEY: Final = "key"
_RANK: Final = "rank"
_SIZE: Final = "size"
_Keys = npt.NDArray[np.uint64]
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LinkTask:
    """Write the links of the samples whose value of `column` is in one bucket."""

    making: Making
    spans: tuple[str, ...]
    column: str
    bucket: int
    num_buckets: int
    file: str

    def __str__(self) -> str:
        return f"bucket {self.bucket} of {self.num_buckets} of {self.column}"


@dataclass(frozen=True)
class ClusterTask:
    """Join all links to clusters, and write those of each part to a file."""

    making: Making
    links: tuple[str, ...]
    last_shards: tuple[int, ...]
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"the clusters of annotation {self.making.name}"


@dataclass(frozen=True)
class LinkedPartTask:
    """Build one part of its spans and of the clusters in `clusters`; `files` are deleted then."""

    making: Making
    spans: tuple[str, ...]
    clusters: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"a part of {len(self.spans)} spans"


def build_linked_parts(
    tasks: Sequence[SpanTask],
    links: Sequence[str],
    *,
    client: Client,
    part_samples: int,
    bucket_rows: int,
) -> list[BuiltPart]:
    """Find the clusters of finished spans and build all parts."""
    making, spans = tasks[0].making, tuple(task.digest for task in tasks)
    groups = list(group_into_parts([task.span for task in tasks], part_samples=part_samples))
    num_buckets = -(-sum(task.span.num_rows for task in tasks) // bucket_rows)
    measured = making.store.span_columns(making.name, spans[0])
    link_tasks = [
        LinkTask(making, spans, column, bucket, num_buckets, _digest(spans, num_buckets, n, bucket))
        for n, column in enumerate(column for column in links if column in measured)
        for bucket in range(num_buckets)
    ]
    files = tuple(task.file for task in link_tasks)
    last_shards = tuple(tasks[group[-1]].span.shard_id for group in groups)
    of_parts = tuple(_digest(files, last_shards, part) for part in range(len(groups)))
    clusters = ClusterTask(making, files, last_shards, of_parts)
    if not (finished := making.store.span_digests(making.name)).issuperset(of_parts):
        waiting = [task for task in link_tasks if task.file not in finished]
        list(run_tasks(client, find_links, waiting))
        list(run_tasks(client, join_links, [clusters]))
    parts = [
        LinkedPartTask(making, tuple(spans[position] for position in group), file)
        for group, file in zip(groups, of_parts, strict=True)
    ]
    parts[0] = replace(parts[0], files=files)
    return [part for _, part in run_tasks(client, build_linked_part, parts)]


def find_links(task: LinkTask) -> None:
    """Link each sample of the bucket with the first one that has the same value."""
    store, name = task.making.store, task.making.name

    def read(span: str) -> pl.DataFrame:
        rows = store.read_span(name, span, columns=[*_IDS, task.column])
        bucket = pl.col(task.column).reinterpret(signed=False) % task.num_buckets
        return rows.filter(bucket == task.bucket)

    rows = pl.concat(ordered_map(read, task.spans, num_threads=4))
    own = sample_key().reinterpret(signed=True)
    links = rows.select(*_IDS, own.min().over(task.column).alias(VALUE)).filter(
        own != pl.col(VALUE)
    )
    store.write_span(name, task.file, links.sort(_IDS))


def join_links(task: ClusterTask) -> None:
    """Write shard_id, row, first key, rank and size of each sample that is linked."""
    store, name = task.making.store, task.making.name

    def read(file: str) -> pl.DataFrame:
        return store.read_span(name, file).select(sample_key().alias(_KEY), VALUE)

    rows = clusters_of(map(read, task.links))
    shards = rows[SHARD_ID].to_numpy()
    ends = np.searchsorted(shards, np.array(task.last_shards), side="right").tolist()
    for file, (first, end) in zip(task.files, itertools.pairwise([0, *ends]), strict=True):
        store.write_span(name, file, rows.slice(first, end - first))


def clusters_of(files: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Return the linked samples in order, with the key of the first one of their cluster.

    A union-find that reads one file at a time.

    Args:
        files: links, each with key u64 and value i64, the keys of two samples.
    """
    keys, first = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    for file in files:
        ends = [file[_KEY].to_numpy(), file[VALUE].to_numpy().view(np.uint64)]
        keys, first = _with_keys(keys, first, _sort_unique(*ends))
        _join(first, *(np.searchsorted(keys, end) for end in ends))
    sizes = np.bincount(first, minlength=len(keys))
    order = np.argsort(first, kind="stable")
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(keys), np.uint32)
    ranks[order] = np.arange(len(keys)) - starts[first[order]]
    return pl.DataFrame(
        {
            SHARD_ID: (keys >> np.uint64(32)).astype(np.uint32),
            ROW: keys.astype(np.uint32),
            VALUE: keys[first].view(np.int64),
            _RANK: ranks,
            _SIZE: sizes[first].astype(np.uint32),
        }
    )


def _with_keys(keys: _Keys, first: _Numbers, new: _Keys) -> tuple[_Keys, _Numbers]:
    """Add sorted keys, each of which is the first one of its cluster unless it is known."""
    together = _sort_unique(keys, new)
    places = np.searchsorted(together, keys)
    numbers = np.arange(len(together))
    numbers[places] = places[first]
    return together, numbers


def _sort_unique(*keys: _Keys) -> _Keys:
    """Return the distinct keys in order; mostly sorted ones take a hundredth of `numpy.unique`."""
    ordered = np.sort(np.concatenate(keys), kind="stable")
    distinct: _Keys = ordered[np.diff(ordered, prepend=ordered[:1] - np.uint64(1)) != 0]
    return distinct


def _join(first: _Numbers, ones: _Numbers, others: _Numbers) -> None:
    """Join the clusters of pairs of samples: `first` has the first sample of each one's cluster.

    Of two firsts the later one is joined to the earlier one, until no pair has two.
    """
    while True:
        ones, others = first[ones], first[others]
        differs = ones != others
        if not differs.any():
            return
        ones, others = ones[differs], others[differs]
        np.minimum.at(first, np.maximum(ones, others), np.minimum(ones, others))
        while not np.array_equal(first, shorter := first[first]):
            first[:] = shorter


def build_linked_part(task: LinkedPartTask) -> BuiltPart:
    """Build the part on a worker: a sample that is not linked is a cluster of one."""
    store, name = task.making.store, task.making.name
    spans = (store.read_span(name, span, columns=[*_IDS, VALUE, STATUS]) for span in task.spans)
    rows = pl.concat(spans).with_columns(is_measured=pl.col(VALUE).is_not_null()).drop(VALUE)
    rows = rows.join(store.read_span(name, task.clusters), on=_IDS, how="left").sort(_IDS)
    alone = {VALUE: sample_key().reinterpret(signed=True), _RANK: 0, _SIZE: 1}
    kinds = {VALUE: pl.Int64, _RANK: pl.UInt32, _SIZE: pl.UInt32}
    filled = rows.select(
        *_IDS,
        STATUS,
        *(
            pl.when("is_measured").then(pl.col(column).fill_null(value).cast(kinds[column]))
            for column, value in alone.items()
        ),
    )
    return store.write_part(name, filled, spans=[*task.spans, task.clusters, *task.files])


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
