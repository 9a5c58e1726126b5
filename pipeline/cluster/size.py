"""Size of a cluster, and plain functions on each of its workers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client

from pipeline.cluster.lost_cluster import lost_scheduler_named


@dataclass(frozen=True)
class Size:
    """Number of workers, and of tasks that they run at a time."""

    workers: int
    threads: int


def cluster_size(client: Client, *, resources: Mapping[str, float] | None = None) -> Size:
    """Return the size of the cluster at the moment, 0 if the scheduler does not answer.

    With `resources`, only workers that offer them count, and as many tasks as they have room for.
    """
    if client.status != "running":
        return Size(workers=0, threads=0)
    scheduler: Any = client.scheduler
    try:
        identity: Any = client.sync(  # type: ignore[no-untyped-call]
            scheduler.identity, n_workers=-1 if resources else 0, callback_timeout=10
        )
    except (OSError, TimeoutError, RuntimeError):
        return Size(workers=0, threads=0)
    if not resources:
        return Size(workers=identity["n_workers"], threads=identity["total_threads"])
    tasks = [_num_tasks(worker, resources) for worker in identity["workers"].values()]
    return Size(workers=sum(count > 0 for count in tasks), threads=sum(tasks))


def on_every_worker(
    client: Client, function: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """Return what `function` returns or raises in each worker process, by the worker's address."""
    with lost_scheduler_named():
        results: dict[str, Any] = client.run(function, *arguments, on_error="return")
    return results


def _num_tasks(worker: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    """Return how many tasks that take `resources` fit on a worker."""
    offered = worker["resources"]
    counts = (int(offered.get(name, 0) // amount) for name, amount in resources.items())
    return min(int(worker["nthreads"]), *counts)
