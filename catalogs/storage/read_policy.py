"""Read policy of a thread: the cost of a request, the cache and the meter for what it reads."""

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

from attent_select.errors import InputError
from catalogs.storage.node_cache import NodeCache
from catalogs.storage.urls import is_local


@dataclass(frozen=True)
class ReadCost:
    """Cost of a request: it waits `latency_seconds`, then receives `bytes_per_second`."""

    latency_seconds: float
    bytes_per_second: float

    def __post_init__(self) -> None:
        if self.latency_seconds < 0 or self.bytes_per_second <= 0:
            raise InputError(
                f"latency of {self.latency_seconds} s at {self.bytes_per_second} bytes/s: expected"
                " a latency of 0 or more and a positive bandwidth"
            )

    @property
    def request_bytes(self) -> int:
        """Cost of one more request, in bytes that could be read in the same time."""
        return int(self.latency_seconds * self.bytes_per_second)

    def seconds(self, *, num_requests: float, num_bytes: float) -> float:
        """Return how long one connection is busy."""
        return num_requests * self.latency_seconds + num_bytes / self.bytes_per_second


# A request to an object store, and a system call on a local file.
REMOTE = ReadCost(latency_seconds=0.025, bytes_per_second=40e6)
LOCAL = ReadCost(latency_seconds=16e-6, bytes_per_second=1e9)


@dataclass
class ReadMeter:
    """Counter of bytes and requests, with those for footers and member indexes. Thread-safe."""

    num_bytes: int = 0
    num_requests: int = 0
    cached_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, num_bytes: int, num_requests: int) -> None:
        with self._lock:
            self.num_bytes += num_bytes
            self.num_requests += num_requests

    def add_cached(self, num_bytes: int) -> None:
        """Count bytes that came from a cache, without a request."""
        with self._lock:
            self.cached_bytes += num_bytes


@dataclass(frozen=True)
class ReadPolicy:
    """How to read.

    Attributes:
        cost: of a request; None: the default for the URL.
        cache: for ranges of remote objects whose etag is known.
        meter: counts what is read.
    """

    cost: ReadCost | None = None
    cache: NodeCache | None = None
    meter: ReadMeter | None = None


_current: ContextVar[ReadPolicy] = ContextVar("read policy", default=ReadPolicy())  # noqa: B039


def current() -> ReadPolicy:
    """Return the policy of the innermost `use_read_policy`."""
    return _current.get()


@contextlib.contextmanager
def use_read_policy(policy: ReadPolicy) -> Iterator[None]:
    """Apply `policy` to everything that this thread reads inside."""
    token = _current.set(policy)
    try:
        yield
    finally:
        _current.reset(token)


def read_cost(url: str) -> ReadCost:
    """Return the cost of a request to `url`: the policy's, or the default for the URL."""
    return current().cost or (LOCAL if is_local(url) else REMOTE)


def request_bytes(url: str) -> int:
    """Return the cost of one more request to `url`, in bytes that could be read instead."""
    return read_cost(url).request_bytes
