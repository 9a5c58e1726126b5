"""Plain functions on workers in a rolling window, and noticing that a cluster is lost.

Here: `run_tasks`.
"""

import contextlib
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
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
    flight = _InFlight(client, function, resources=resources or {}, patience=patience_seconds)
    waiting = iter(tasks)
    try:
        while True:
            room = max(1, window_per_thread * flight.size().threads)
            while len(flight) < room and (task := next(waiting, _NO_TASK)) is not _NO_TASK:
                flight.start(task)
            if not len(flight):
                return
            task, future = flight.next_done()
            if flight.has_died(task, future):
                if on_death is not None:
                    on_death(task)
                flight.start(task)
            else:
                if future.status == "error":
                    future.result()  # raises what the task did
                with _told_when_lost():
                    result = future.result()
                yield task, result
    finally:
        flight.cancel()


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


def on_every_worker(
    client: Client, function: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """What `function` returns or raises in each worker process, by the worker's address."""
    with _told_when_lost():
        found: dict[str, Any] = client.run(function, *arguments, on_error="return")
    return found


@contextlib.contextmanager
def _told_when_lost() -> Iterator[None]:
    """Dask's own calls fail in several ways when the scheduler ends in the middle of them."""
    try:
        yield
    except (OSError, CancelledError) as error:
        raise ClusterError(f"the connection to the Dask scheduler was lost: {GO_ON}") from error


class _InFlight:
    """The futures that are not done, and the cluster as it was when last looked at: asking costs a
    message each time.
    """

    def __init__(
        self,
        client: Client,
        function: Callable[[Any], Any],
        *,
        resources: Mapping[str, float],
        patience: float,
    ) -> None:
        self._client, self._function = client, function
        self._resources, self._patience = dict(resources), patience
        self._running: dict[Future, Any] = {}
        self._done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._deaths: Counter[int] = Counter()
        self._size, self._looked = Size(0, 0), 0.0

    def __len__(self) -> int:
        return len(self._running)

    def start(self, task: Any) -> None:
        future = self._client.submit(
            self._function, task, pure=False, resources=self._resources or None
        )
        self._running[future] = task
        future.add_done_callback(self._done.put)

    def size(self) -> Size:
        """At most a second old."""
        if monotonic() - self._looked >= _POLL_SECONDS or not self._size.workers:
            self._size = size(self._client, resources=self._resources)
            self._looked = monotonic()
        return self._size

    def next_done(self) -> tuple[Any, Future]:
        """The next finished future; unlike Dask alone, this does not wait for ever."""
        last_seen = monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                future = self._done.get(timeout=_POLL_SECONDS)
                return self._running.pop(future), future
            if self.size().workers > 0:
                last_seen = monotonic()
            elif monotonic() - last_seen > self._patience:
                can = f" that offers {self._resources}" if self._resources else ""
                raise ClusterError(
                    f"the Dask cluster had no worker{can} for {self._patience:.0f} s: {GO_ON}"
                )

    def has_died(self, task: Any, future: Future) -> bool:
        """Whether the task's worker process ended. Raises `ClusterError` when too many did."""
        error = future.exception() if future.status == "error" else None
        if not isinstance(error, KilledWorker):
            self._deaths.pop(id(task), None)
            return False
        self._deaths[id(task)] += 1
        if (count := self._deaths[id(task)]) >= _MAX_DEATHS:
            raise ClusterError(
                f"{task}: the worker processes that tried it ended {count} times, and no single "
                "sample was found that does it; most often that is memory (raise "
                "cluster.memory_limit, or lower scoring.batch_units), else the shard itself: "
                f"{GO_ON}"
            ) from error
        return True

    def cancel(self) -> None:
        with contextlib.suppress(Exception):  # the cluster may be gone, which is then the news
            self._client.cancel(list(self._running))


def _places(worker: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    offered = worker["resources"]
    tasks = (int(offered.get(name, 0) // amount) for name, amount in resources.items())
    return min(worker["nthreads"], *tasks)
