"""What a storage endpoint can do, tried out with an object of our own.

The probe that `attent doctor` reports.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from attent_select.errors import StorageError
from catalogs import storage
from catalogs.layout import join
from catalogs.storage.object_store import SCHEMES, bucket_of

_NUM_BYTES = 1 << 20
_NUM_RANGES = 64


@dataclass(frozen=True)
class Probe:
    """How the storage at a URL behaves.

    `ranges`: `native`, or `fsspec` where the server answers ranged requests in a way that obstore
    refuses. `conditional_put`: whether it refuses to write over what is there when asked to; None
    where that has no meaning. Nothing depends on it.
    """

    ranges: str
    conditional_put: bool | None
    request_seconds: float
    write_bytes_per_second: float
    read_bytes_per_second: float


def probe(folder: str) -> Probe:
    """Writes, reads, lists, overwrites and deletes one object of 1 MiB in `folder`.

    Raises:
        StorageError: something does not work, or an object is not seen as it was written.
    """
    url = join(storage.normalise(folder), f"attent-probe-{os.urandom(8).hex()}.bin")
    data = os.urandom(_NUM_BYTES)
    try:
        writing = _seconds(lambda: storage.publish(url, data))
        reading = _seconds(lambda: _check(url, storage.read(url) == data, "what was written"))
        step = _NUM_BYTES // _NUM_RANGES
        ranges = [(position * step, 16) for position in range(_NUM_RANGES)]
        asking = _seconds(
            lambda: _check(
                url,
                storage.read_ranges(url, ranges) == [data[at : at + size] for at, size in ranges],
                "the ranges that were asked for",
            )
        )
        before = storage.info(url)
        _check(url, before in storage.list_objects(folder), "what was written, in a listing")
        storage.publish(url, data[::-1])
        _check(url, storage.read(url) == data[::-1], "what was written over it")
        _check(url, storage.info(url) != before, "another etag for other bytes")
        return Probe(
            ranges=_ranges(url),
            conditional_put=_conditional_put(url),
            request_seconds=asking / _NUM_RANGES,
            write_bytes_per_second=_NUM_BYTES / writing,
            read_bytes_per_second=_NUM_BYTES / reading,
        )
    finally:
        storage.delete(url)


def _check(url: str, is_right: bool, what: str) -> None:  # noqa: FBT001
    if not is_right:
        raise StorageError(
            f"{url}: expected {what}, found something else. Another program may write there, or the"
            " storage answers from a cache"
        )


def _seconds(work: Callable[[], None]) -> float:
    started = perf_counter()
    work()
    return max(perf_counter() - started, 1e-9)


def _ranges(url: str) -> str:
    if url.partition("://")[0] in SCHEMES and not bucket_of(url).answers_ranges:
        return "fsspec"
    return "native"


def _conditional_put(url: str) -> bool | None:
    """Whether writing is refused where something is and nothing may be."""
    if url.partition("://")[0] not in SCHEMES:
        return None
    return not bucket_of(url).creates(url, b"written over it")
