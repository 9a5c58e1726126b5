"""Threads that keep no process alive: a call that hangs ends with the process, not before it. The
standard library's pool waits for every call, those that have not begun included, when the
process ends.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Generic[Item, Result]):
    """Threads that apply a function to what is submitted, in that order."""

    def __init__(self, function: Callable[[Item], Result], num_threads: int, *, name: str) -> None:
        self._function = function
        self._waiting: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """The result to come; one that is cancelled before its turn is not worked on."""
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        return future

    def close(self, deadline: float) -> None:
        """Drop what has not started, and wait for the rest until `deadline` (`monotonic`)."""
        with contextlib.suppress(Empty):
            while True:  # not until `empty()`: a thread may take the last one after that was asked
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(deadline - monotonic(), 0))

    def _work(self) -> None:
        while (entry := self._waiting.get()) is not None:
            item, future = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._function(item))
                except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
                    future.set_exception(error)
            del entry, item, future  # or this frame would keep them alive until the next comes
