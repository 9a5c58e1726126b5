"""How bytes are read while a training streams: what a request costs, and what it did cost.

The policy that holds within `use_read_policy(…)`, per thread, and the meter that counts. Not here:
which ranges follow from a cost (`catalogs/read_plan.py`), reading itself (`__init__.py`).
"""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from attent_select.errors import InputError
from catalogs.storage.node_cache import NodeCache


@dataclass(frozen=True)
class ReadCost:
    """A request waits `latency_seconds`; then its connection gives `bytes_per_second`."""

    latency_seconds: float
    bytes_per_second: float

    def __post_init__(self) -> None:
        if self.latency_seconds < 0 or self.bytes_per_second <= 0:
            raise InputError(
                f"latency of {self.latency_seconds} s at {self.bytes_per_second} bytes/s: expected "
                "a latency of 0 or more, and a positive bandwidth"
            )

    @property
    def request_bytes(self) -> int:
        """What one more request costs, in bytes that could have been read instead."""
        return int(self.latency_seconds * self.bytes_per_second)

    def seconds(self, *, num_requests: float, num_bytes: float) -> float:
        """How long one connection is busy."""
        return num_requests * self.latency_seconds + num_bytes / self.bytes_per_second


# A request to an object store, and a system call on a local file.
REMOTE = ReadCost(latency_seconds=0.025, bytes_per_second=40e6)
LOCAL = ReadCost(latency_seconds=16e-6, bytes_per_second=1e9)


@dataclass
class ReadMeter:
    """Counts what was read, footers and member indexes included. Thread-safe."""

    num_bytes: int = 0
    num_requests: int = 0
    cached_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, num_bytes: int, num_requests: int) -> None:
        with self._lock:
            self.num_bytes += num_bytes
            self.num_requests += num_requests

    def add_cached(self, num_bytes: int) -> None:
        """Bytes that a cache had: no request."""
        with self._lock:
            self.cached_bytes += num_bytes


@dataclass(frozen=True)
class ReadPolicy:
    """`cost` of a request (None: as is usual for the URL); `cache` for ranges of remote objects
    whose etag is known; `meter` that counts.
    """

    cost: ReadCost | None = None
    cache: NodeCache | None = None
    meter: ReadMeter | None = None


_current: ContextVar[ReadPolicy] = ContextVar("read policy", default=ReadPolicy())  # noqa: B039


def current() -> ReadPolicy:
    """The policy of the innermost `use_read_policy`."""
    return _current.get()


@contextlib.contextmanager
def use_read_policy(policy: ReadPolicy) -> Iterator[None]:
    """All that this thread reads inside follows `policy`."""
    token = _current.set(policy)
    try:
        yield
    finally:
        _current.reset(token)
