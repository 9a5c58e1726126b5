"""Probe of a storage endpoint with one temporary object, for `attent doctor`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from attent_select.errors import StorageError
from catalogs.layout import join
from catalogs.storage import access
from catalogs.storage.object_store import SCHEMES, bucket_of
from catalogs.storage.retry import is_transient
from catalogs.storage.urls import normalise

_NUM_BYTES = 1 << 20
_NUM_RANGES = 64


@dataclass(frozen=True)
class Probe:
    """How the storage at a URL behaves.

    Attributes:
        ranges: `native`, or `fsspec` if obstore rejects the server's answers to ranged requests.
        conditional_put: whether the server refuses to overwrite an object when asked to; None if
            this does not apply. Not required.
    """

    ranges: str
    conditional_put: bool | None
    request_seconds: float
    write_bytes_per_second: float
    read_bytes_per_second: float


def probe(folder: str) -> Probe:
    """Write, read, list, overwrite and delete one object of 1 MiB in `folder`.

    Raises:
        StorageError: an operation failed, or did not return what was written.
    """
    url = join(normalise(folder), f"attent-probe-{os.urandom(8).hex()}.bin")
    data = os.urandom(_NUM_BYTES)
    try:
        write_seconds = _seconds(lambda: access.publish(url, data))
        read_seconds = _seconds(lambda: _check(url, access.read(url) == data, "the written bytes"))
        step = _NUM_BYTES // _NUM_RANGES
        ranges = [(position * step, 16) for position in range(_NUM_RANGES)]
        ranges_seconds = _seconds(
            lambda: _check(
                url,
                access.read_ranges(url, ranges) == [data[at : at + size] for at, size in ranges],
                "the requested ranges",
            )
        )
        before = access.info(url)
        _check(url, before in access.list_objects(folder), "the written object in a listing")
        access.publish(url, data[::-1])
        _check(url, access.read(url) == data[::-1], "the overwritten bytes")
        _check(url, access.info(url) != before, "a new etag for new bytes")
        return Probe(
            ranges=_ranges(url),
            conditional_put=_conditional_put(url),
            request_seconds=ranges_seconds / _NUM_RANGES,
            write_bytes_per_second=_NUM_BYTES / write_seconds,
            read_bytes_per_second=_NUM_BYTES / read_seconds,
        )
    finally:
        access.delete(url)


def _check(url: str, is_correct: bool, expected: str) -> None:  # noqa: FBT001
    if not is_correct:
        raise StorageError(
            f"{url}: expected {expected}, found something else. Another program may write there, or"
            " the storage answers from a cache"
        )


def _seconds(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return max(perf_counter() - start, 1e-9)


def _ranges(url: str) -> str:
    if url.partition("://")[0] in SCHEMES and not bucket_of(url).answers_ranges:
        return "fsspec"
    return "native"


def _conditional_put(url: str) -> bool | None:
    """Whether a conditional write to an existing object is refused; None: not applicable."""
    store = access.conditional(url)
    if store is None:
        return None
    try:
        return store.write_if(url, b"written over it", version=None) is None
    except StorageError as error:
        if is_transient(error):
            raise
        return None
