"""Runs a function over items in threads, ahead of the consumer, in order, within a byte budget.

Here: `ordered_map` and nothing that knows samples. Threads rather than processes: no forks, no
duplicated reads, nothing to pickle, and decoding (Pillow, Arrow, tokenizers, torch) releases
the interpreter lock.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from time import monotonic, thread_time
from typing import TypeAlias, TypeVar

from catalogs.daemon_threads import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

# What was started, with its cost, in order; then None, or what went wrong with the items.
_Started: TypeAlias = SimpleQueue[tuple[Future[Result], int] | BaseException | None]

# Items that take less of a processor than this are not worth a second thread.
_QUICK_SECONDS = 100e-6

# How long closing waits for calls that have started. Whoever leaves because one of them hangs shall
# not hang as well; the threads are daemons and keep no process alive.
_CLOSING_SECONDS = 10.0


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    budget: int,
    cost: Callable[[Item], int],
    timeout_seconds: float | None = None,
) -> Generator[Result, None, None]:
    """Yields `function(item)` in the order of `items`, computed ahead by `num_threads` threads.

    The summed `cost` of everything started and not yet handed over stays within `budget`; a single
    item that costs more than the budget runs alone. `items` is pulled from a thread of its own, so
    that one `ordered_map` can feed another without making the consumer wait for both. An exception
    of `items` or `function` is raised at its place in the order. Closing the generator (or dropping
    it) stops and joins every thread; calls that have started are waited for, within reason, and
    not at all once a result did not come in time.

    Without threads (0) each item is worked on when it is asked for, where it is asked for, however
    long that takes.

    Raises:
        TimeoutError: a result did not come within `timeout_seconds`.
    """
    if not num_threads:
        yield from _when_asked(function, items)
        return
    gate, patience = _Gate(budget), _CLOSING_SECONDS
    started: _Started[Result] = SimpleQueue()
    workers = Workers(function, num_threads, name="attent-work")

    def start(item: Item) -> bool:
        size = cost(item)
        if admitted := gate.enter(size):
            started.put((workers.submit(item), size))
        return admitted

    feeder = threading.Thread(
        target=_feed, args=(items, start, started), name="attent-feed", daemon=True
    )
    feeder.start()
    try:
        yield from _results(started, gate, timeout_seconds)
    except TimeoutError:
        patience = 0.0
        raise
    finally:
        deadline = monotonic() + patience
        gate.close()
        feeder.join(patience)
        workers.close(deadline)


def _when_asked(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    iterator = iter(items)
    try:
        yield from map(function, iterator)
    finally:
        _close(iterator)


def _results(
    started: "_Started[Result]", gate: "_Gate", timeout: float | None
) -> Generator[Result, None, None]:
    while (entry := _get(started, timeout)) is not None:
        future, size = entry
        result = future.result(timeout)
        del entry, future  # or this frame would keep the result alive while the next is made
        gate.leave(size)
        yield result
        del result


def _get(started: "_Started[Result]", timeout: float | None) -> "tuple[Future[Result], int] | None":
    try:
        entry = started.get(timeout=timeout)
    except Empty:
        raise TimeoutError from None
    if isinstance(entry, BaseException):
        raise entry
    return entry


def _feed(
    items: Iterable[Item], start: Callable[[Item], bool], started: "_Started[Result]"
) -> None:
    """Start one item after the other until they end, fail, or `start` says to stop."""
    iterator = iter(items)
    try:
        if all(start(item) for item in iterator):
            started.put(None)
    except BaseException as error:  # noqa: BLE001  (handed to the consumer, which raises it)
        started.put(error)
    finally:
        _close(iterator)


def _close(iterator: Iterator[Item]) -> None:
    """Those that hold something, as generators do, let go of it."""
    if close := getattr(iterator, "close", None):
        close()


class Turns:
    """Lets one thread work at a time for as long as items are quick.

    Threads that give up the interpreter lock for a few microseconds at a time wait for each other
    more than they work: two of them decode small images at less than half the rate of one.
    """

    def __init__(self) -> None:
        # Of a processor, per item: the least so far, as whatever else runs adds to it.
        self._seconds: float | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, num_items: int) -> Iterator[None]:
        """Work on so many items, alone while they are quick."""
        is_quick = self._seconds is None or self._seconds < _QUICK_SECONDS
        with self._lock if is_quick else contextlib.nullcontext():
            began = thread_time()
            yield
            if num_items:
                spent = (thread_time() - began) / num_items
                self._seconds = min(spent, self._seconds or spent)


class _Gate:
    """Admits costs up to a limit; one entry is always admitted when nothing is inside."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._closed = False
        self._changed = threading.Condition()

    def enter(self, size: int) -> bool:
        """Wait until `size` fits; False once closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or not self._inside or self._inside + size <= self._limit
            )
            self._inside += size
            return not self._closed

    def leave(self, size: int) -> None:
        with self._changed:
            self._inside -= size
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
