"""Parts of an annotation, built on workers from its finished spans.

Values that depend on other samples are resolved first: all rows of the corpus are divided into
buckets by their value, so that a worker sees equal values together and holds one bucket only.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from attent_select.schema import ROW, SHARD_ID
from catalogs.annotations.store import VALUE, BuiltPart
from catalogs.concurrency import ordered_map
from pipeline.annotation.span_work import Making, SpanTask
from pipeline.cluster import Client, run_tasks
from pipeline.scoring.spans import group_into_parts
from trainers.annotation import HasResolve

# Rows that a worker resolves at a time, about 50 bytes each.
BUCKET_ROWS: Final = 1 << 22


@dataclass(frozen=True)
class PartTask:
    """Build one part: the rows of `files`. `spans` are deleted with them afterwards."""

    making: Making
    files: tuple[str, ...]
    spans: tuple[str, ...]

    def __str__(self) -> str:
        return f"a part of {len(self.spans)} spans"


@dataclass(frozen=True)
class BucketTask:
    """Resolve the rows of one bucket, and write those of each part to a file."""

    making: Making
    spans: tuple[str, ...]
    bucket: int
    num_buckets: int
    # The last shard of each part, and the file for it.
    last_shards: tuple[int, ...]
    files: tuple[str, ...]

    def __str__(self) -> str:
        return f"bucket {self.bucket} of {self.num_buckets}"


def build_parts(
    tasks: Sequence[SpanTask], *, client: Client, part_samples: int, bucket_rows: int = BUCKET_ROWS
) -> list[BuiltPart]:
    """Build all parts of finished spans."""
    groups = list(group_into_parts([task.span for task in tasks], part_samples=part_samples))
    making = tasks[0].making
    files = [[tasks[position].digest for position in group] for group in groups]
    known = [[d for position in group for d in tasks[position].measured or ()] for group in groups]
    spans = [(*own, *own_known) for own, own_known in zip(files, known, strict=True)]
    if isinstance(making.kind, HasResolve):
        last_shards = tuple(tasks[group[-1]].span.shard_id for group in groups)
        buckets = list(_bucket_tasks(tasks, last_shards, bucket_rows=bucket_rows))
        finished = making.store.span_digests(making.name)
        waiting = [task for task in buckets if not finished.issuperset(task.files)]
        for _ in run_tasks(client, resolve_bucket, waiting):
            pass
        files = [[task.files[number] for task in buckets] for number in range(len(groups))]
    pairs = zip(files, spans, strict=True)
    part_tasks = (PartTask(making, tuple(own), own_spans) for own, own_spans in pairs)
    return [part for _, part in run_tasks(client, build_part, part_tasks)]


def build_part(task: PartTask) -> BuiltPart:
    """Build the part on a worker."""
    store, name = task.making.store, task.making.name
    if task.files == task.spans:
        return store.build_part(name, task.spans)
    rows = pl.concat(store.read_span(name, file) for file in task.files).sort(SHARD_ID, ROW)
    return store.write_part(name, rows, spans=[*task.files, *task.spans])


def resolve_bucket(task: BucketTask) -> None:
    """Resolve a bucket on a worker."""
    store, name, kind = task.making.store, task.making.name, task.making.kind
    assert isinstance(kind, HasResolve)

    def read(span: str) -> pl.DataFrame:
        rows = store.read_span(name, span)
        return rows.filter(_bucket_of(rows[VALUE], task.num_buckets) == task.bucket)

    rows = kind.resolve(pl.concat(ordered_map(read, task.spans, num_threads=4)))
    rows = rows.sort(SHARD_ID, ROW)
    shards = rows[SHARD_ID].to_numpy()
    ends = np.searchsorted(shards, np.array(task.last_shards), side="right").tolist()
    for file, (first, end) in zip(task.files, itertools.pairwise([0, *ends]), strict=True):
        store.write_span(name, file, rows.slice(first, end - first))


def _bucket_tasks(
    tasks: Sequence[SpanTask], last_shards: tuple[int, ...], *, bucket_rows: int
) -> Iterator[BucketTask]:
    spans = tuple(task.digest for task in tasks)
    num_buckets = -(-sum(task.span.num_rows for task in tasks) // bucket_rows)
    all_spans = hashlib.sha256(" ".join([*spans, *map(str, last_shards)]).encode()).hexdigest()
    for bucket in range(num_buckets):
        files = tuple(
            hashlib.sha256(f"{all_spans} {bucket}/{num_buckets} {part}".encode()).hexdigest()[:32]
            for part in range(len(last_shards))
        )
        yield BucketTask(tasks[0].making, spans, bucket, num_buckets, last_shards, files)


def _bucket_of(values: pl.Series, num_buckets: int) -> pl.Series:
    """Return the bucket of each value, a hash of the content; null is in the first one."""
    hashes = values.fill_null(0).to_numpy().view(np.uint64)
    return pl.Series(hashes % np.uint64(num_buckets))
