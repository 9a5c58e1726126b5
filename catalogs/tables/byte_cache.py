"""LRU cache of footers and member indexes, bounded in bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """LRU cache whose values have at most `max_bytes` in total. Thread-safe."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """Return the value of `key`, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def pop(self, key: Hashable) -> Value | None:
        """Remove `key` and return its value, or None."""
        with self._lock:
            value, num_bytes = self._entries.pop(key, (None, 0))
            self._num_bytes -= num_bytes
            return value

    def put(self, key: Hashable, value: Value, *, num_bytes: int) -> Value:
        """Store `value` and return it. A value larger than the cache is not stored."""
        with self._lock:
            self._num_bytes -= self._entries.pop(key, (value, 0))[1]
            self._entries[key] = (value, num_bytes)
            self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes:
                _, (_, dropped_bytes) = self._entries.popitem(last=False)
                self._num_bytes -= dropped_bytes
        return value

    def get_or_load(
        self, key: Hashable, load: Callable[[], Value], *, size_of: Callable[[Value], int]
    ) -> Value:
        """Return the value of `key`; load it if missing (two threads may load it at once)."""
        value = self.get(key)
        if value is None:
            value = load()
            self.put(key, value, num_bytes=size_of(value))
        return value
