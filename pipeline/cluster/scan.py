"""A scan whose pieces are read by the workers of a cluster: for catalogs beyond one machine.

Passes as Dask tasks, and the chosen rows by way of storage.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from attent_select.schema import INDEX
from attent_select.selection.select import Selection
from catalogs import storage
from catalogs.layout import join
from catalogs.tables import frames
from catalogs.tables.frames import SchemaDict
from catalogs.tables.scan import Scan

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")

# Per thread of the cluster: enough that a slow worker holds up little.
_TASKS_PER_THREAD = 4


@dataclass(frozen=True)
class ClusterScan:
    """`scan` on the workers of `client`. Implements `Chunks`."""

    client: "Client"
    scan: Scan

    @property
    def schema(self) -> SchemaDict:
        return self.scan.schema

    def frame(self) -> pl.LazyFrame:
        return self.scan.frame()

    def only(self, columns: Sequence[str]) -> "ClusterScan":
        return ClusterScan(self.client, self.scan.only(columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        """`work` of every piece, in order. Raises `ClusterError` if the cluster is lost."""
        from pipeline.cluster import run_tasks, size

        parts = self.scan.split(_TASKS_PER_THREAD * max(1, size(self.client).threads)) or [
            self.scan
        ]
        tasks = [_Task(position, part, work) for position, part in enumerate(parts)]
        early: dict[int, list[Result]] = {}
        following = 0
        for task, results in run_tasks(self.client, _run, tasks):
            early[task.position] = results
            while following in early:
                yield from early.pop(following)
                following += 1


@contextmanager
def where_it_runs(scan: Scan, *, scheduler: str | None) -> Iterator[Scan | ClusterScan]:
    """`scan` itself, or on the workers of the cluster at `scheduler` while the context lasts.

    Raises:
        InputError: there is no such cluster, or a worker is not fit for the work.
    """
    if scheduler is None:
        yield scan
        return
    from pipeline.cluster import cluster_at, connect, worker_check

    with connect(cluster_at(scheduler)) as client:
        first = storage.info(scan.files[0].url)
        objects = {} if first is None else {first.url: first.etag}
        worker_check.check_workers(client, objects=objects, needs_gpu=False)
        yield ClusterScan(client, scan)


def frames_by_storage(selection: Selection, *, beside: str) -> Iterator[pl.DataFrame]:
    """`selection.frames()` without any row through the scheduler.

    The workers write what they find into a folder beside the URL `beside`; it is gone afterwards.
    """
    folder = f"{beside}.pieces-{uuid.uuid4().hex[:8]}"
    try:
        found = [url for url in selection.chunks.run(_Publish(folder)) if url is not None]
        yield from (
            Scan.of(found, schema=dict(INDEX))
            .frame()
            .collect_batches(maintain_order=True, engine="streaming")
        )
    finally:
        storage.delete_folder(folder)


@dataclass(frozen=True)
class _Task:
    position: int
    scan: Scan
    work: Callable[[pl.LazyFrame], Any]

    def __str__(self) -> str:
        first, last = self.scan.files[:1], self.scan.files[-1:]
        return f"a pass over {len(self.scan.files)} files, {first[0].url} to {last[0].url}"


def _run(task: _Task) -> list[Any]:
    return list(task.scan.run(task.work))


@dataclass(frozen=True)
class _Publish:
    """The rows of a piece as a file in `folder`; None if there are none."""

    folder: str

    def __call__(self, rows: pl.LazyFrame) -> str | None:
        found = rows.collect()
        if found.is_empty():
            return None
        url = join(self.folder, f"{uuid.uuid4().hex}.parquet")
        frames.publish_frame(url, found, notes={})
        return url
