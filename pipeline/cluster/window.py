"""Plain functions on workers in a rolling window, and noticing that a cluster is lost.

Here: `run_tasks`. Not here: where the cluster comes from (`connection.py`).
"""

import contextlib
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker

from attent_select.errors import ClusterError

Task = TypeVar("Task")
Result = TypeVar("Result")

GO_ON = "nothing that was finished is lost; run the same command again to go on"

_POLL_SECONDS = 1.0
# A task is given up when it was on a dying worker so often. Looking for the sample that kills takes
# some deaths, and a task may be unlucky beside it.
_MAX_DEATHS = 12


@dataclass(frozen=True)
class Size:
    """Workers of the cluster, and tasks that they do at a time."""

    workers: int
    threads: int


def run_tasks(
    client: Client,
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    window_per_thread: int = 2,
    patience_seconds: float = 60.0,
    resources: Mapping[str, float] | None = None,
    on_death: Callable[[Task], None] | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Yields (task, function(task)) in order of completion.

    `tasks` is drawn lazily, `window_per_thread` times as many as the cluster has threads at the
    moment. An exception of a task is raised here, and what is still in flight is cancelled (a task
    that runs already runs to its end: tasks must be safe to repeat). A task whose worker process
    died is tried again, after a call of `on_death`.

    Args:
        client: of the cluster.
        function: importable on the workers.
        tasks: picklable, and small.
        window_per_thread: tasks in flight for each thread.
        patience_seconds: how long the cluster may be without a worker that can do a task.
        resources: what a task takes of its worker while it runs (Dask's resources).
        on_death: told of each task whose worker died.

    Raises:
        ClusterError: the scheduler or all of its workers were gone for `patience_seconds`, or a
            task's workers died again and again.
    """
    watched = _Watched(client, patience_seconds=patience_seconds, resources=dict(resources or {}))
    done: queue.SimpleQueue[Future] = queue.SimpleQueue()
    running: dict[Future, Task] = {}
    deaths: Counter[int] = Counter()
    waiting = iter(tasks)

    def start(task: Task) -> None:
        future = client.submit(function, task, pure=False, resources=watched.resources or None)
        running[future] = task
        future.add_done_callback(done.put)

    try:
        while True:
            window = max(1, window_per_thread * watched.size().threads)
            while len(running) < window and (task := next(waiting, _NO_TASK)) is not _NO_TASK:
                start(task)
            if not running:
                return
            future = watched.next_done(done)
            task = running.pop(future)
            if future.status == "error" and isinstance(error := future.exception(), KilledWorker):
                deaths[id(task)] += 1
                _check_deaths(deaths[id(task)], task, error)
                if on_death is not None:
                    on_death(task)
                start(task)
                continue
            if future.status == "cancelled":
                raise ClusterError(f"the connection to the Dask scheduler was lost: {GO_ON}")
            deaths.pop(id(task), None)
            yield task, future.result()
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone, which is then the news
            client.cancel(list(running))


_NO_TASK: Any = object()


def size(client: Client, *, resources: Mapping[str, float] | None = None) -> Size:
    """Workers and threads of the cluster at the moment; none when the scheduler does not answer.

    With `resources`, only workers that offer them count, and as many tasks as they have them for.
    """
    if client.status != "running":
        return Size(workers=0, threads=0)
    try:
        identity = client.sync(
            client.scheduler.identity, n_workers=-1 if resources else 0, callback_timeout=10
        )
    except (OSError, TimeoutError, RuntimeError):
        return Size(workers=0, threads=0)
    if not resources:
        return Size(workers=identity["n_workers"], threads=identity["total_threads"])
    places = [_places(worker, resources) for worker in identity["workers"].values()]
    return Size(workers=sum(place > 0 for place in places), threads=sum(places))


def dashboard(client: Client) -> str | None:
    """The address of the cluster's dashboard; None where it has none."""
    services: Any = client.scheduler_info(n_workers=0)["services"]
    return client.dashboard_link if "dashboard" in services else None


def on_every_worker(
    client: Client, function: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """What `function` returns or raises in each worker process, by the worker's address."""
    found: dict[str, Any] = client.run(function, *arguments, on_error="return")
    return found


class _Watched:
    """The cluster, as looked at now and then: asking costs a message each time."""

    def __init__(
        self, client: Client, *, patience_seconds: float, resources: dict[str, float]
    ) -> None:
        self._client, self._patience = client, patience_seconds
        self.resources = resources
        self._size, self._looked = Size(0, 0), -_POLL_SECONDS

    def size(self) -> Size:
        """At most a second old."""
        if monotonic() - self._looked >= _POLL_SECONDS or not self._size.workers:
            self._size = size(self._client, resources=self.resources)
            self._looked = monotonic()
        return self._size

    def next_done(self, done: "queue.SimpleQueue[Future]") -> Future:
        """The next finished future; unlike Dask alone, this does not wait for ever."""
        last_seen = monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                return done.get(timeout=_POLL_SECONDS)
            if self.size().workers > 0:
                last_seen = monotonic()
            elif monotonic() - last_seen > self._patience:
                can = f" that offers {self.resources}" if self.resources else ""
                raise ClusterError(
                    f"the Dask cluster had no worker{can} for {self._patience:.0f} s: {GO_ON}"
                )


def _places(worker: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    offered = worker["resources"]
    tasks = (int(offered.get(name, 0) // amount) for name, amount in resources.items())
    return min(worker["nthreads"], *tasks)


def _check_deaths(count: int, task: object, error: KilledWorker) -> None:
    if count >= _MAX_DEATHS:
        raise ClusterError(
            f"{task}: the worker processes that tried it were killed {count} times, and no single "
            "sample was found that does it; most often that is memory (raise cluster.memory_limit, "
            f"or lower scoring.batch_units), else the shard itself: {GO_ON}"
        ) from error
