"""The only door to bytes: read, read ranges, list, publish, delete, at any URL.

Which store a URL belongs to, and the functions that everyone calls. No store crosses a process
border: ship URLs.

Local paths are plain absolute strings; everything else is `scheme://…`. Credentials come from
the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), the endpoint of other S3 servers from
`AWS_ENDPOINT_URL`.
"""

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

from attent_select.errors import InputError, StorageError
from catalogs.concurrency import ordered_map
from catalogs.layout import join
from catalogs.storage import globs, local_files, read_policy
from catalogs.storage.fsspec_files import FsspecFiles
from catalogs.storage.local_files import LocalFiles
from catalogs.storage.node_cache import NodeCache
from catalogs.storage.object_store import SCHEMES, bucket_of
from catalogs.storage.objects import ObjectInfo, Range, Storage, missing_error
from catalogs.storage.read_policy import ReadCost, ReadMeter, ReadPolicy, use_read_policy

__all__ = [
    "NodeCache",
    "ObjectInfo",
    "Range",
    "ReadCost",
    "ReadMeter",
    "ReadPolicy",
    "Storage",
    "use_read_policy",
]

# A large object is copied to a local file in pieces of this size.
_PIECE_BYTES = 64 << 20

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def read(url: str, *, etag: str | None = None) -> bytes:
    """All bytes of an object.

    Raises:
        MissingError: it is not there.
        CorpusMismatchError: `etag` is given and the object has another.
        StorageError: storage failed after its retries.
    """
    data = _store(url).read(normalise(url), etag=etag)
    _count([data])
    return data


def read_ranges(url: str, ranges: Sequence[Range], *, etag: str | None = None) -> list[bytes]:
    """The bytes of each `(offset, num_bytes)`, in that order, read concurrently.

    Raises what `read` raises; an answer shorter than asked for is a `StorageError`.
    """

    def fetch(wanted: Sequence[Range]) -> list[bytes]:
        found = _store(url).read_ranges(normalise(url), wanted, etag=etag)
        _count(found)
        return found

    now = read_policy.current()
    if not ranges:
        return []
    if now.cache is None or etag is None or is_local(url):
        return fetch(ranges)
    found, num_cached = now.cache.read_ranges(normalise(url), ranges, etag=etag, fetch=fetch)
    if now.meter is not None:
        now.meter.add_cached(num_cached)
    return found


def list_objects(prefix: str) -> list[ObjectInfo]:
    """Every object under the folder `prefix`, or the one object at that URL; sorted by URL."""
    return sorted(_store(prefix).list_objects(normalise(prefix)), key=lambda found: found.url)


def publish(url: str, data: bytes | Path) -> None:
    """Put a complete object in place: readers see the old one or the new one, never a piece.

    `data` is bytes, or a local file, which stays where it is.
    """
    if isinstance(data, Path) and not data.is_file():
        raise missing_error(str(data))
    _store(url).publish(normalise(url), data)


def delete(url: str) -> None:
    """Remove an object; nothing happens if it is not there."""
    _store(url).delete(normalise(url))


def info(url: str) -> ObjectInfo | None:
    """Size and etag of the object at `url`; None if there is none."""
    wanted = normalise(url)
    return next((found for found in list_objects(wanted) if found.url == wanted), None)


def expand(patterns: Sequence[str]) -> list[ObjectInfo]:
    """What URLs, folders and globs (`*`, `?`, `[…]`, `{000..127}`) name; sorted, unique.

    Files in a folder that start with `.` or `_` are left out (`_SUCCESS`, `.crc`).

    Raises:
        InputError: a pattern names nothing, means nothing here, or cannot be read.
    """
    for pattern in patterns:
        globs.check(pattern)
    wanted = {
        (pattern, normalise(url)): None
        for pattern in patterns
        for url in globs.expand_braces(pattern)
    }
    several = Counter(pattern for pattern, _ in wanted)
    # One listing finds all of a numbered series; asking for each would take as many requests.
    folders = [_to_list(url, several=several[pattern] > 1) for pattern, url in wanted]
    listings = dict(_concurrently(_listing, sorted(set(folders))))
    found: dict[str, ObjectInfo] = {}
    for (pattern, url), folder in zip(wanted, folders, strict=True):
        matches = globs.matcher(url)
        named = {one.url: one for one in listings[folder] if matches(one.url)}
        if not named:
            where = url if url == normalise(pattern) else f"{url} (from {pattern})"
            raise InputError(
                f"nothing is at {where}: expected a file, a folder or a pattern with at least one"
                " file. Check the spelling, and that the credentials may list it"
            )
        found |= named
    return sorted(found.values(), key=lambda one: one.url)


def is_local(url: str) -> bool:
    """Whether `url` is a path on this machine."""
    return "://" not in url or url.startswith("file://")


def normalise(url: str) -> str:
    """The one spelling of a URL: an absolute path, or `scheme://…`, without a slash at the end.

    Raises:
        InputError: it is a `file://` of another host.
    """
    if url.startswith("file://"):
        host, _, path = url.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise InputError(f"{url} is a file of the host {host!r}: expected file:///path")
        url = "/" + unquote(path)
    if not is_local(url):
        scheme, mark, rest = url.partition("://")
        return scheme + mark + rest.rstrip("/")
    return os.path.normpath(Path(url).expanduser().absolute())


def read_cost(url: str) -> ReadCost:
    """What reading costs there: as the policy says, or as is usual."""
    usual = read_policy.LOCAL if is_local(url) else read_policy.REMOTE
    return read_policy.current().cost or usual


def request_bytes(url: str) -> int:
    """What one more request costs there, in bytes that could have been read instead."""
    return read_cost(url).request_bytes


def delete_all(urls: Iterable[str]) -> None:
    """Remove many objects, concurrently."""
    _concurrently(delete, urls)


def delete_folder(url: str) -> None:
    """Remove a folder and everything in it; nothing happens if it is not there."""
    if is_local(url):
        shutil.rmtree(normalise(url), ignore_errors=True)
    else:
        delete_all(found.url for found in list_objects(url))


def leftovers(folder: str) -> list[ObjectInfo]:
    """What crashes left half written: local files only, as object stores show nothing of it."""
    return list(local_files.leftovers(normalise(folder))) if is_local(folder) else []


def download_folder(url: str, to: Path) -> None:
    """Copy every object under the folder `url` into the local folder `to`.

    Raises:
        MissingError: there is nothing under `url`.
    """
    base, found = normalise(url), list_objects(url)
    if not found:
        raise missing_error(url)

    def download(source: ObjectInfo) -> None:
        target = to / source.url.removeprefix(base).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(source, target)

    _concurrently(download, found)


def upload_folder(folder: Path, url: str) -> None:
    """Publish every file of a local folder under `url`, each atomically, in any order."""
    base = normalise(url)

    def upload(path: Path) -> None:
        publish(join(base, path.relative_to(folder).as_posix()), path)

    _concurrently(upload, [path for path in sorted(folder.rglob("*")) if path.is_file()])


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A local path with the object's bytes: the file itself, or a copy removed afterwards.

    Raises:
        MissingError: there is no object at `url`.
    """
    found = info(url)
    if found is None:
        raise missing_error(url)
    if is_local(url):
        yield Path(found.url)
        return
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder) / found.url.rpartition("/")[2]
        _download(found, path)
        yield path


def _download(source: ObjectInfo, path: Path) -> None:
    with path.open("wb") as file:
        for offset in range(0, source.num_bytes, _PIECE_BYTES):
            piece = (offset, min(_PIECE_BYTES, source.num_bytes - offset))
            file.write(read_ranges(source.url, [piece], etag=source.etag)[0])


def _count(found: Sequence[bytes]) -> None:
    if (meter := read_policy.current().meter) is not None:
        meter.add(num_bytes=sum(map(len, found)), num_requests=len(found))


def _to_list(url: str, *, several: bool) -> str:
    # A local glob is left to the file system: its folder may be the whole disk.
    local_glob = is_local(url) and globs.is_glob(url)
    return url if local_glob else globs.folder_to_list(url, several=several)


def _listing(folder: str) -> tuple[str, list[ObjectInfo]]:
    try:
        if globs.is_glob(folder):
            paths = [str(path) for path in Path("/").glob(folder.lstrip("/")) if path.is_file()]
            return folder, [found for path in paths for found in list_objects(path)]
        return folder, list_objects(folder)
    except StorageError as error:
        raise InputError(f"cannot read {folder}: {error}") from error


def _concurrently(function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    return list(ordered_map(function, items, num_threads=8))


def _store(url: str) -> Storage:
    if is_local(url):
        return LocalFiles()
    if url.partition("://")[0] in SCHEMES:
        return bucket_of(url)
    return FsspecFiles()
