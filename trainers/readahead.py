"""Runs a function over items in threads, ahead of the consumer, in order, within a byte budget.

Here: `ordered_map` and nothing that knows samples. Not here: what is read or prepared (`stream.py`,
`scorer.py`). Threads rather than processes: no forks, no duplicated reads, nothing to pickle, and
decoding (Pillow, Arrow, tokenizers, torch) releases the interpreter lock.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# What was started, with its cost, in order; then None, or what went wrong with the items.
_Started: TypeAlias = SimpleQueue[tuple[Future[Result], int] | BaseException | None]


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    budget: int,
    cost: Callable[[Item], int],
) -> Generator[Result, None, None]:
    """Yields `function(item)` in the order of `items`, computed ahead by `num_threads` threads.

    The summed `cost` of everything started and not yet handed over stays within `budget`; a single
    item that costs more than the budget runs alone. `items` is pulled from a thread of its own, so
    that one `ordered_map` can feed another without making the consumer wait for both. An exception
    of `items` or `function` is raised at its place in the order. Closing the generator (or dropping
    it) stops and joins every thread; calls that have started are waited for.
    """
    gate = _Gate(budget)
    started: _Started[Result] = SimpleQueue()
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="attent-work")

    def start(item: Item) -> bool:
        size = cost(item)
        if admitted := gate.enter(size):
            started.put((executor.submit(function, item), size))
        return admitted

    feeder = threading.Thread(
        target=_feed, args=(items, start, started), name="attent-feed", daemon=True
    )
    feeder.start()
    try:
        while (entry := started.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            future, size = entry
            result = future.result()
            del entry, future  # or this frame would keep the result alive while the next is made
            gate.leave(size)
            yield result
            del result
    finally:
        gate.close()
        feeder.join()
        executor.shutdown(wait=True, cancel_futures=True)


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
        if close := getattr(iterator, "close", None):
            close()


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
