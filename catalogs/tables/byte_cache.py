"""A small cache, bounded in bytes of shard footers and member indexes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Least recently used values are dropped once their sizes exceed `max_bytes`. Thread-safe."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value under `key`, or None."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def pop(self, key: Hashable) -> Value | None:
        """The value under `key`, which is not kept any longer, or None."""
        with self._lock:
            value, num_bytes = self._entries.pop(key, (None, 0))
            self._num_bytes -= num_bytes
            return value

    def put(self, key: Hashable, value: Value, *, num_bytes: int) -> Value:
        """Keep `value` and return it. One that is larger than the whole cache is not kept."""
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
        """The value under `key`, loaded first if need be (perhaps by two threads at once)."""
        found = self.get(key)
        if found is None:
            found = load()
            self.put(key, found, num_bytes=size_of(found))
        return found
