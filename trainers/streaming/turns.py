"""Turns: one thread at a time works on quick items, so that threads do not contend for the GIL."""

import contextlib
import threading
from collections.abc import Iterator
from time import thread_time

# Items that take less CPU time than this are not worth a second thread.
_QUICK_SECONDS = 100e-6


class Turns:
    """Lock that lets one thread work at a time for as long as items are quick.

    Threads that release the GIL for a few microseconds at a time wait for each other more than they
    work: two of them decode small images at less than half the rate of one.
    """

    def __init__(self) -> None:
        # CPU time per item: the minimum so far, because other load only adds to it.
        self._seconds: float | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, num_items: int) -> Iterator[None]:
        """Work on `num_items` items, alone while they are quick."""
        is_quick = self._seconds is None or self._seconds < _QUICK_SECONDS
        with self._lock if is_quick else contextlib.nullcontext():
            start = thread_time()
            yield
            if num_items:
                seconds = (thread_time() - start) / num_items
                self._seconds = min(seconds, self._seconds or seconds)
