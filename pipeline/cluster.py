"""The only door to Dask: a cluster, and plain functions on its workers in a rolling window.

Here: connecting, running plain functions on workers, noticing that a cluster is lost. Not here:
what the functions do (`ingest.py`, `scoring.py`) or the settings (`settings.py`). No Dask
collections: a task is one picklable value in and one small value out; data never travels through
the scheduler.
"""

import contextlib
import logging
import os
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import dask
import dask.utils
from distributed import Client, Future, KilledWorker, LocalCluster

from attent_select.errors import ClusterError, InputError
from pipeline.settings import ClusterSettings

__all__ = [
    "Client",
    "check_memory_limit",
    "connect",
    "connect_when_needed",
    "num_threads",
    "on_every_worker",
    "run_tasks",
]

Task = TypeVar("Task")
Result = TypeVar("Result")

_POLL_SECONDS = 1.0
_GO_ON = "nothing that was finished is lost; run the same command again to go on"


def check_memory_limit(limit: str) -> None:
    """Raises `InputError` if Dask would not know how much that is."""
    try:
        share = float(limit) if limit != "auto" else 1.0
    except ValueError:
        share = 1.0
        try:
            dask.utils.parse_bytes(limit)
        except ValueError as error:
            raise InputError(
                f"{limit!r} is no amount of memory: expected `auto`, 0 (no limit) or such as 4GB"
            ) from error
    if not share >= 0:
        raise InputError(f"{limit} is less than nothing: expected `auto`, 0 (no limit) or 4GB")


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """A client of the cluster that `settings` describe, with at least one worker.

    `scheduler: local` starts worker processes on this machine and ends them on leaving.

    Raises:
        InputError: nothing answers at the scheduler's address.
        ClusterError: the scheduler has no worker within `worker_timeout_seconds`.
    """
    _quiet_logs()
    with contextlib.ExitStack() as stack:
        if settings.scheduler == "local":
            client = stack.enter_context(_local_client(settings))
        else:
            client = stack.enter_context(_remote_client(settings))
        try:
            client.wait_for_workers(1, timeout=settings.worker_timeout_seconds)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {settings.scheduler} had no worker for "
                f"{settings.worker_timeout_seconds} s: start workers, then {_GO_ON}"
            ) from error
        yield client


@contextmanager
def connect_when_needed(settings: ClusterSettings) -> Iterator[Callable[[], Client]]:
    """Like `connect`, but yields a function that connects when it is first called."""
    with contextlib.ExitStack() as stack:
        connected: list[Client] = []

        def client() -> Client:
            if not connected:
                connected.append(stack.enter_context(connect(settings)))
            return connected[0]

        yield client


def run_tasks(
    client: Client,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    window_per_thread: int = 2,
    patience_seconds: float = 60.0,
) -> Iterator[tuple[Task, Result]]:
    """Yields (task, function(task)) in order of completion.

    `tasks` is drawn lazily, `window_per_thread` times as many as the cluster has threads at the
    moment. An exception of a task is raised here, and what is still in flight is cancelled (a task
    that runs already runs to its end: tasks must be safe to repeat).

    Raises:
        ClusterError: the scheduler or all of its workers were gone for `patience_seconds`.
    """
    done: queue.SimpleQueue[Future] = queue.SimpleQueue()
    running: dict[Future, Task] = {}
    waiting = iter(tasks)
    try:
        while True:
            window = max(1, window_per_thread * _size(client).threads)
            while len(running) < window and (task := next(waiting, _NO_TASK)) is not _NO_TASK:
                future = client.submit(function, task, pure=False)
                running[future] = task
                future.add_done_callback(done.put)
            if not running:
                return
            future = _next_done(done, client, patience_seconds=patience_seconds)
            task = running.pop(future)
            yield task, _result(future, task)
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone, which is then the news
            client.cancel(list(running))


_NO_TASK: Any = object()


@dataclass(frozen=True)
class _Size:
    workers: int
    threads: int


def _result(future: Future, task: object) -> Any:
    if future.status == "cancelled":
        raise ClusterError(f"the connection to the Dask scheduler was lost: {_GO_ON}")
    try:
        return future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"{task}: the worker processes that tried it were killed, most often for memory "
            f"(raise cluster.memory_limit, or lower scoring.batch_units): {_GO_ON}"
        ) from error


def _next_done(
    done: "queue.SimpleQueue[Future]", client: Client, *, patience_seconds: float
) -> Future:
    """The next finished future; unlike Dask alone, this does not wait for ever without workers."""
    last_seen = monotonic()
    while True:
        with contextlib.suppress(queue.Empty):
            return done.get(timeout=_POLL_SECONDS)
        if _size(client).workers > 0:
            last_seen = monotonic()
        elif monotonic() - last_seen > patience_seconds:
            raise ClusterError(
                f"the Dask cluster had no worker for {patience_seconds:.0f} s: {_GO_ON}"
            )


def _size(client: Client) -> _Size:
    """Workers and threads of the cluster at the moment; none when the scheduler does not answer."""
    if client.status != "running":
        return _Size(workers=0, threads=0)
    try:
        identity = client.sync(client.scheduler.identity, n_workers=0, callback_timeout=10)
    except (OSError, TimeoutError, RuntimeError):
        return _Size(workers=0, threads=0)
    return _Size(workers=identity["n_workers"], threads=identity["total_threads"])


def num_threads(client: Client) -> int:
    """Threads of all workers at the moment, at least 1."""
    return max(1, _size(client).threads)


def on_every_worker(client: Client, function: Callable[[], object]) -> None:
    """Runs `function` once in each worker process and waits for all of them."""
    client.run(function)


@contextmanager
def _local_client(settings: ClusterSettings) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=settings.threads_per_worker,
            processes=True,
            host="127.0.0.1",
            # Without a dashboard Dask still serves metrics: at any free port.
            dashboard_address=settings.dashboard or "127.0.0.1:0",
            scheduler_kwargs={"dashboard": settings.dashboard is not None},
            memory_limit=settings.memory_limit,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _remote_client(settings: ClusterSettings) -> Iterator[Client]:
    try:
        client = Client(settings.scheduler, timeout=settings.connect_timeout_seconds)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cluster.scheduler: nothing answers at {settings.scheduler} within "
            f"{settings.connect_timeout_seconds} s: start `dask scheduler` there, or use `local`"
        ) from error
    with client:
        yield client


def _quiet_logs() -> None:
    """Dask tells of every lost connection on stderr; we say what matters ourselves."""
    if "DASK_LOGGING__DISTRIBUTED" in os.environ:
        return
    dask.config.set({"logging.distributed": "critical"})
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
