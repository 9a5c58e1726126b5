"""Scan whose chunks are read by the workers of a cluster, for catalogs beyond one machine."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from attent_select.schema import INDEX
from attent_select.selection.select import Selection
from catalogs import storage
from catalogs.layout import join
from catalogs.tables import frames
from catalogs.tables.frames import SchemaDict
from catalogs.tables.joined import AnyScan
from catalogs.tables.scan import Scan

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")

# Per thread of the cluster: enough tasks that a slow worker delays the others little.
_TASKS_PER_THREAD = 4


@dataclass(frozen=True)
class ClusterScan:
    """`scan` on the workers of `client`; implements `Chunks`."""

    client: "Client"
    scan: AnyScan

    @property
    def schema(self) -> SchemaDict:
        return self.scan.schema

    def frame(self) -> pl.LazyFrame:
        return self.scan.frame()

    def only(self, columns: Sequence[str]) -> "ClusterScan":
        return ClusterScan(self.client, self.scan.only(columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        """Yield `work` of every chunk, in order.

        Raises:
            ClusterError: the cluster was lost.
        """
        from pipeline.cluster import cluster_size, run_tasks

        num_scans = _TASKS_PER_THREAD * max(1, cluster_size(self.client).threads)
        scans: list[AnyScan] = [*self.scan.split(num_scans)] or [self.scan]
        tasks = [_Task(number, scan, work) for number, scan in enumerate(scans)]
        done: dict[int, list[Result]] = {}
        next_number = 0
        for task, results in run_tasks(self.client, _run, tasks):
            done[task.number] = results
            while next_number in done:
                yield from done.pop(next_number)
                next_number += 1


@contextmanager
def scan_at(scan: AnyScan, *, scheduler: str | None) -> Iterator[AnyScan | ClusterScan]:
    """Yield `scan`, or a scan on the workers of the cluster at `scheduler`.

    Raises:
        InputError: there is no such cluster, or a worker cannot do the work.
    """
    if scheduler is None:
        yield scan
        return
    from pipeline.cluster import cluster_at, connect, worker_check

    with connect(cluster_at(scheduler)) as client:
        first = storage.info(scan.files[0].url)
        objects = {} if first is None else {first.url: first.etag}
        worker_check.check_workers(client, objects=objects, needs_gpu=False)
        # Workers would each watch their own part.
        yield ClusterScan(client, replace(scan, watch=None) if isinstance(scan, Scan) else scan)


def frames_by_storage(selection: Selection, *, beside: str) -> Iterator[pl.DataFrame]:
    """Yield `selection.frames()` without sending rows through the scheduler.

    The workers write the rows into a folder beside the URL `beside`, which is deleted afterwards.
    """
    folder = f"{beside}.pieces-{uuid.uuid4().hex[:8]}"
    try:
        urls = [url for url in selection.chunks.run(_PublishChunk(folder)) if url is not None]
        kinds = frames.polars_schema(frames.footer_of(urls[0])) if urls else dict(INDEX)
        yield from (
            Scan.of(urls, schema=kinds)
            .frame()
            .collect_batches(maintain_order=True, engine="streaming")
        )
    finally:
        storage.delete_folder(folder)


@dataclass(frozen=True)
class _Task:
    number: int
    scan: AnyScan
    work: Callable[[pl.LazyFrame], Any]

    def __str__(self) -> str:
        first, last = self.scan.files[:1], self.scan.files[-1:]
        return f"a pass over {len(self.scan.files)} files, {first[0].url} to {last[0].url}"


def _run(task: _Task) -> list[Any]:
    return list(task.scan.run(task.work))


@dataclass(frozen=True)
class _PublishChunk:
    """Publish the rows of a chunk as a file in `folder`; return its URL, or None without rows."""

    folder: str

    def __call__(self, rows: pl.LazyFrame) -> str | None:
        frame = rows.collect()
        if frame.is_empty():
            return None
        url = join(self.folder, f"{uuid.uuid4().hex}.parquet")
        frames.publish_frame(url, frame, notes={})
        return url
