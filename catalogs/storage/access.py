"""Read, list, publish and delete one object at any URL: selects the store, applies the read policy.

Stores never cross a process boundary: ship URLs.
"""

from collections.abc import Sequence
from pathlib import Path

from catalogs.storage import read_policy
from catalogs.storage.fsspec_files import FsspecFiles
from catalogs.storage.local_files import LocalFiles
from catalogs.storage.object_store import SCHEMES, bucket_of
from catalogs.storage.objects import (
    ConditionalStorage,
    ObjectInfo,
    Range,
    Storage,
    missing_error,
)
from catalogs.storage.urls import is_local, normalise


def read(url: str, *, etag: str | None = None) -> bytes:
    """Read all bytes of an object.

    Raises:
        MissingError: it was not found.
        CorpusMismatchError: the object's etag is not `etag`.
        StorageError: storage failed after its retries.
    """
    data = _store_of(url).read(normalise(url), etag=etag)
    _count([data])
    return data


def read_ranges(url: str, ranges: Sequence[Range], *, etag: str | None = None) -> list[bytes]:
    """Read each `(offset, num_bytes)` of `ranges`, concurrently; return the bytes in that order.

    Raises what `read` raises, and `StorageError` for an answer that is too short.
    """

    def fetch(ranges: Sequence[Range]) -> list[bytes]:
        data = _store_of(url).read_ranges(normalise(url), ranges, etag=etag)
        _count(data)
        return data

    if not ranges:
        return []
    policy = read_policy.current()
    if policy.cache is None or etag is None or is_local(url):
        return fetch(ranges)
    data, num_cached = policy.cache.read_ranges(normalise(url), ranges, etag=etag, fetch=fetch)
    if policy.meter is not None:
        policy.meter.add_cached(num_cached)
    return data


def list_objects(prefix: str) -> list[ObjectInfo]:
    """List every object under the folder `prefix`, or the one object at that URL; sorted by URL."""
    objects = _store_of(prefix).list_objects(normalise(prefix))
    return sorted(objects, key=lambda stored: stored.url)


def info(url: str) -> ObjectInfo | None:
    """Return size and etag of the object at `url`; None if there is no object."""
    url = normalise(url)
    return next((stored for stored in list_objects(url) if stored.url == url), None)


def publish(url: str, data: bytes | Path) -> None:
    """Put a complete object in place: readers see the old or the new object, never a part of it.

    `data` is bytes, or a local file, which stays where it is.
    """
    if isinstance(data, Path) and not data.is_file():
        raise missing_error(str(data))
    _store_of(url).publish(normalise(url), data)


def delete(url: str) -> None:
    """Delete the object at `url`, if there is one."""
    _store_of(url).delete(normalise(url))


def conditional(url: str) -> ConditionalStorage | None:
    """Return the store of `url` if it has conditional writes, which its server may ignore."""
    return bucket_of(url) if url.partition("://")[0] in SCHEMES else None


def reader_options(url: str) -> dict[str, str] | None:
    """Return options with which another client reads from the bucket of `url` as this package does.

    The names are those of the Rust crate `object_store`, which the client must use. Return None if
    `url` is not in a bucket, or if such a client cannot read ranges from its server.
    """
    is_in_bucket = url.partition("://")[0] in SCHEMES
    return bucket_of(url).reader_options() if is_in_bucket else None


def count_read(*, num_bytes: int, num_requests: int) -> None:
    """Count what another client has read, by the read policy."""
    if (meter := read_policy.current().meter) is not None:
        meter.add(num_bytes=num_bytes, num_requests=num_requests)


def _count(data: Sequence[bytes]) -> None:
    count_read(num_bytes=sum(map(len, data)), num_requests=len(data))


def _store_of(url: str) -> Storage:
    if is_local(url):
        return LocalFiles()
    if url.partition("://")[0] in SCHEMES:
        return bucket_of(url)
    return FsspecFiles()
