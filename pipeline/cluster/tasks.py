"""Plain functions on workers, in a rolling window of tasks, with detection of a lost cluster."""

import contextlib
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dask.utils import key_split
from distributed import Client, Future, KilledWorker

from attent_select.errors import ClusterError
from pipeline.cluster.lost_cluster import RESUME, lost_scheduler_named
from pipeline.cluster.size import Size, cluster_size

if TYPE_CHECKING:
    AnyFuture: TypeAlias = Future[Any]

Task = TypeVar("Task")
Result = TypeVar("Result")

_POLL_SECONDS = 1.0
# A task fails after this many deaths of its worker. The search for a poison sample takes some, and
# a task may also be beside one.
_MAX_DEATHS = 12
# Dask remembers the names of 100,000 tasks, which are 30 MB. They are forgotten after this many.
_MAX_REMEMBERED = 10_000


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
    """Yield (task, function(task)) in order of completion.

    `tasks` is consumed lazily: at most `window_per_thread` tasks per thread of the cluster are in
    flight. An exception of a task is raised here, and the tasks in flight are cancelled (a running
    task runs to its end: tasks must be safe to repeat). A task whose worker process died is retried
    after a call of `on_death`.

    Args:
        client: client of the cluster.
        function: importable on the workers.
        tasks: picklable and small.
        window_per_thread: tasks in flight per thread.
        patience_seconds: how long the cluster may be without a worker that can run a task.
        resources: Dask resources that a task takes of its worker while it runs.
        on_death: called with each task whose worker died.

    Raises:
        ClusterError: the scheduler or all workers were gone for `patience_seconds`, or the workers
            of a task died again and again.
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
            try:
                result = flight.result_of(future)
            except KilledWorker as error:
                flight.count_death(task, error)
                if on_death is not None:
                    on_death(task)
                flight.start(task)
                continue
            flight.forget_deaths(task)
            yield task, result
    finally:
        flight.cancel()


_NO_TASK: Any = object()


class _InFlight:
    """The futures that are not done, and the size of the cluster, which costs a message to ask."""

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
        self._running: dict[AnyFuture, Any] = {}
        self._done: queue.SimpleQueue[AnyFuture] = queue.SimpleQueue()
        self._deaths: Counter[int] = Counter()
        self._num_started = 0
        self._size, self._size_time = Size(0, 0), 0.0

    def __len__(self) -> int:
        return len(self._running)

    def start(self, task: Any) -> None:
        future = self._client.submit(
            self._function, task, pure=False, resources=self._resources or None
        )
        self._running[future] = task
        self._num_started += 1
        if self._num_started % _MAX_REMEMBERED == 0:
            key_split.cache_clear()
        future.add_done_callback(self._done.put)  # type: ignore[no-untyped-call]

    def size(self) -> Size:
        """Return the size of the cluster, at most a second old."""
        if monotonic() - self._size_time >= _POLL_SECONDS or not self._size.workers:
            self._size = cluster_size(self._client, resources=self._resources)
            self._size_time = monotonic()
        return self._size

    def next_done(self) -> tuple[Any, "AnyFuture"]:
        """Wait for the next finished future; unlike Dask, stop waiting when the cluster is lost."""
        last_seen = monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                future = self._done.get(timeout=_POLL_SECONDS)
                return self._running.pop(future), future
            last_seen = self._last_seen(last_seen)

    def result_of(self, future: "AnyFuture") -> Any:
        """Return the result of a finished future, or raise the exception of its task.

        A worker may die while it holds the result: then the task runs again, and may kill another.

        Raises:
            KilledWorker: the task's worker process died.
            ClusterError: the cluster is lost.
        """
        untyped: Any = future
        last_seen = monotonic()
        while True:
            if future.status == "error":
                untyped.result()
            with lost_scheduler_named():
                try:
                    return untyped.result(timeout=_POLL_SECONDS)
                except TimeoutError:
                    if future.status == "error":
                        continue
            last_seen = self._last_seen(last_seen)

    def _last_seen(self, before: float) -> float:
        """Return when a worker was last there.

        Raises:
            ClusterError: that is too long ago.
        """
        if self.size().workers > 0:
            return monotonic()
        if monotonic() - before > self._patience:
            offer = f" that offers {self._resources}" if self._resources else ""
            raise ClusterError(
                f"the Dask cluster had no worker{offer} for {self._patience:.0f} s: {RESUME}"
            )
        return before

    def forget_deaths(self, task: Any) -> None:
        self._deaths.pop(id(task), None)

    def count_death(self, task: Any, error: KilledWorker) -> None:
        """Count a death of the task's worker process.

        Raises:
            ClusterError: too many of the task's workers died.
        """
        self._deaths[id(task)] += 1
        if (count := self._deaths[id(task)]) >= _MAX_DEATHS:
            raise ClusterError(
                f"{task}: {count} worker processes died while they ran it, and no single sample "
                "was found that kills them. The usual cause is memory (raise "
                "cluster.memory_limit, or lower scoring.batch_units), otherwise the shard itself; "
                f"{RESUME}"
            ) from error

    def cancel(self) -> None:
        untyped: Any = self._client
        with contextlib.suppress(Exception):  # the cluster may be gone: another error says so
            untyped.cancel(list(self._running))
