"""Daemon thread pool and ordered map: a hung call never blocks interpreter exit.

`concurrent.futures.ThreadPoolExecutor` waits at exit for every call, even for calls that have not
started. Threads rather than processes: no forks, nothing to pickle, and storage clients, Arrow,
Pillow, tokenizers and torch release the GIL.
"""

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# How long closing waits for running calls, one of which may hang.
_CLOSING_SECONDS = 10.0
# The same at the exit of the interpreter, which must not seem to hang.
_EXIT_SECONDS = 2.0

# Started calls with their costs, in order; then None, or the exception that ended the items.
_Started: TypeAlias = SimpleQueue[tuple[Future[Result], int] | BaseException | None]


# What stops each map that is open, in the order of their starts, until a time (`monotonic`).
_Stop: TypeAlias = Callable[[float], None]
_open_maps: dict[object, _Stop] = {}


class DaemonPool:
    """Pool of daemon threads that call functions in the order of submission."""

    def __init__(self, num_threads: int, *, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[Any], Any], Any, Future[Any]] | None]
        self._calls = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Return the future of `function(item)`; cancelled before its turn, it is not called."""
        future: Future[Result] = Future()
        self._calls.put((function, item, future))
        return future

    def close(self, deadline: float) -> None:
        """Drop calls that have not started; wait for the others until `deadline` (`monotonic`)."""
        with contextlib.suppress(Empty):
            while True:  # not `while not empty()`: a thread may take the last call in between
                self._calls.get_nowait()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            _join(thread, deadline)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, item, future = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(item))
                except BaseException as error:  # noqa: BLE001  (raised by `future.result()`)
                    future.set_exception(error)
            del call, function, item, future  # keeps nothing alive while waiting for the next call


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    budget: int | None = None,
    cost: Callable[[Item], int] = lambda _: 1,
    timeout_seconds: float | None = None,
) -> Generator[Result, None, None]:
    """Map `function` over `items` in `num_threads` daemon threads; yield results in order.

    The summed `cost` of started items whose results were not yet yielded stays within `budget`
    (default: two items per thread). An item that costs more than the budget runs alone. A separate
    thread pulls `items`, so that one map can feed another without blocking the consumer. Exceptions
    of `items` or `function` are raised at their place in the order.

    Nothing starts before the first result is requested. Closing or dropping the generator stops its
    threads: it waits up to ten seconds for running calls, and not at all after a timeout. Maps that
    are still open at exit are stopped, with up to two seconds for running calls.

    With `num_threads=0` the consumer's thread calls `function` on each request; `budget`, `cost`
    and `timeout_seconds` do not apply.

    Raises:
        TimeoutError: a result took longer than `timeout_seconds`.
    """
    if not num_threads:
        yield from _map_on_request(function, items)
        return
    gate = _Gate(2 * num_threads if budget is None else budget)
    started: _Started[Result] = SimpleQueue()
    pool = DaemonPool(num_threads, name="attent-work")

    def start(item: Item) -> bool:
        size = cost(item)
        if is_open := gate.enter(size):
            started.put((pool.submit(function, item), size))
        return is_open

    feeder = threading.Thread(
        target=_feed, args=(items, start, started), name="attent-feed", daemon=True
    )
    feeder.start()
    stop = partial(_stop, gate, feeder, pool)
    # Local names: when a generator is dropped at exit, those of this module are gone.
    key, open_maps, now, closing_seconds = object(), _open_maps, monotonic, _CLOSING_SECONDS
    open_maps[key] = stop
    try:
        yield from _results(started, gate, timeout_seconds)
    except TimeoutError:
        closing_seconds = 0.0
        raise
    finally:
        if open_maps.pop(key, None) is not None:
            stop(now() + closing_seconds)


def _stop(gate: "_Gate", feeder: threading.Thread, pool: DaemonPool, deadline: float) -> None:
    """Stop the threads of a map; wait for them until `deadline` (`monotonic`)."""
    gate.close()
    _join(feeder, deadline)
    pool.close(deadline)


@atexit.register
def _stop_open_maps() -> None:
    """Stop the maps that are open at exit.

    Python stops a thread that still runs then in the middle of a call, which can abort the process.
    """
    deadline = monotonic() + _EXIT_SECONDS
    # The first one first: a map that feeds another ends with it.
    for key in list(_open_maps):
        if stop := _open_maps.pop(key, None):
            stop(deadline)


# Their threads do not exist in a fork.
os.register_at_fork(after_in_child=_open_maps.clear)


def _map_on_request(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    iterator = iter(items)
    close = _close  # a local name, as in `ordered_map`
    try:
        yield from map(function, iterator)
    finally:
        close(iterator)


def _results(
    started: "_Started[Result]", gate: "_Gate", timeout: float | None
) -> Generator[Result, None, None]:
    while (call := _next_call(started, timeout)) is not None:
        future, size = call
        result = future.result(timeout)
        del call, future  # they would keep the result alive while the next one is computed
        gate.leave(size)
        yield result
        del result


def _next_call(
    started: "_Started[Result]", timeout: float | None
) -> "tuple[Future[Result], int] | None":
    try:
        call = started.get(timeout=timeout)
    except Empty:
        raise TimeoutError from None
    if isinstance(call, BaseException):
        raise call
    return call


def _feed(
    items: Iterable[Item], start: Callable[[Item], bool], started: "_Started[Result]"
) -> None:
    """Start items until they end, one of them raises, or `start` returns False."""
    iterator = iter(items)
    try:
        if all(start(item) for item in iterator):
            started.put(None)
    except BaseException as error:  # noqa: BLE001  (raised in the consumer's thread)
        started.put(error)
    finally:
        _close(iterator)


def _close(iterator: Iterator[Item]) -> None:
    """Close generators, which may hold files or threads; other iterators have no `close`."""
    if close := getattr(iterator, "close", None):
        close()


def _join(thread: threading.Thread, deadline: float) -> None:
    # The garbage collector may close a dropped generator in one of its own threads.
    if thread is not threading.current_thread():
        thread.join(max(deadline - monotonic(), 0))


class _Gate:
    """Semaphore over costs; when nothing is inside, an item of any cost may enter."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def enter(self, size: int) -> bool:
        """Wait until `size` fits; return False if the gate was closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or not self._inside or self._inside + size <= self._limit
            )
            self._inside += size
            return not self._is_closed

    def leave(self, size: int) -> None:
        with self._changed:
            self._inside -= size
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
