"""The only door to bytes: read, read ranges, list, publish, delete, at any URL.

Here: which store a URL belongs to, the stores behind obstore (s3, gs, az) and fsspec (anything else),
and the functions that everyone calls. Not here: local files (`catalogs/local_files.py`), glob patterns
(`catalogs/patterns.py`), the meaning of any byte. No store crosses a process border: ship URLs.

Local paths are plain absolute strings; everything else is `scheme://…`. Credentials come from the
environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), the endpoint of other S3 servers from `AWS_ENDPOINT_URL`.
"""

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import fsspec
import obstore
import obstore.store
from obstore.exceptions import BaseError as ObstoreError

from attent_select.errors import AttentError, InputError, StorageError
from catalogs import patterns as globs
from catalogs.layout import join
from catalogs.local_files import LocalFiles
from catalogs.objects import ObjectInfo, Range, Storage, check_etag, check_length, missing

__all__ = ["ObjectInfo", "Range", "Storage"]

_OBJECT_STORES = ("s3", "gs", "az")
_CONNECT_TIMEOUT = timedelta(seconds=10)
_REQUEST_TIMEOUT = timedelta(seconds=120)
_RETRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=180)}
_CONCURRENCY = 16

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def read(url: str, *, etag: str | None = None) -> bytes:
    """All bytes of an object.

    Raises:
        MissingError: it is not there.
        CorpusMismatchError: `etag` is given and the object has another.
        StorageError: storage failed after its retries.
    """
    return _store(url).read(normalise(url), etag=etag)


def read_ranges(url: str, ranges: Sequence[Range], *, etag: str | None = None) -> list[bytes]:
    """The bytes of each `(offset, num_bytes)`, in that order, read concurrently.

    Raises what `read` raises; an answer shorter than asked for is a `StorageError`.
    """
    return _store(url).read_ranges(normalise(url), ranges, etag=etag) if ranges else []


def list_objects(prefix: str) -> list[ObjectInfo]:
    """Every object under the folder `prefix`, or the one object at that URL; sorted by URL."""
    return sorted(_store(prefix).list_objects(normalise(prefix)), key=lambda found: found.url)


def publish(url: str, data: bytes | Path) -> None:
    """Put a complete object in place: readers see the old one or the new one, never a piece."""
    _store(url).publish(normalise(url), data)


def delete(url: str) -> None:
    """Remove an object; nothing happens if it is not there."""
    _store(url).delete(normalise(url))


def info(url: str) -> ObjectInfo | None:
    """Size and etag of the object at `url`; None if there is none."""
    wanted = normalise(url)
    return next((found for found in list_objects(wanted) if found.url == wanted), None)


def expand(patterns: Sequence[str]) -> list[ObjectInfo]:
    """The objects that URLs, folders and globs (`*`, `?`, `[…]`, `{000..127}`) name; sorted, unique.

    Raises:
        InputError: a pattern names nothing, or cannot be read.
    """
    found: dict[str, ObjectInfo] = {}
    for pattern in patterns:
        for wanted in globs.expand_braces(pattern):
            matches = _matches(normalise(wanted))
            if not matches:
                where = wanted if wanted == pattern else f"{wanted} (from {pattern})"
                raise InputError(
                    f"nothing is at {where}: expected a file, a folder or a pattern with at least"
                    " one file. Check the spelling, and that the credentials may list it"
                )
            found.update((match.url, match) for match in matches)
    return sorted(found.values(), key=lambda match: match.url)


def is_local(url: str) -> bool:
    """Whether `url` is a path on this machine."""
    return "://" not in url or url.startswith("file://")


def normalise(url: str) -> str:
    """The one spelling of a URL: an absolute path, or `scheme://…`, without a slash at the end."""
    if url.startswith("file://"):
        url = unquote(url.removeprefix("file://"))
    if not is_local(url):
        return url.rstrip("/")
    return os.path.normpath(Path(url).expanduser().absolute())


def delete_all(urls: Iterable[str]) -> None:
    """Remove many objects, concurrently."""
    _concurrently(delete, urls)


def delete_folder(url: str) -> None:
    """Remove a folder and everything in it; nothing happens if it is not there."""
    if is_local(url):
        shutil.rmtree(normalise(url), ignore_errors=True)
    else:
        delete_all(found.url for found in list_objects(url))


def download_folder(url: str, to: Path) -> None:
    """Copy every object under the folder `url` into the local folder `to`.

    Raises:
        MissingError: there is nothing under `url`.
    """
    base, found = normalise(url), list_objects(url)
    if not found:
        raise missing(url)

    def download(source: ObjectInfo) -> None:
        target = to / source.url.removeprefix(base).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(source.url, target)

    _concurrently(download, found)


def upload_folder(folder: Path, url: str) -> None:
    """Publish every file of a local folder under the folder `url`, each atomically, in any order."""

    def upload(path: Path) -> None:
        publish(join(normalise(url), path.relative_to(folder).as_posix()), path)

    _concurrently(upload, [path for path in sorted(folder.rglob("*")) if path.is_file()])


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A local path with the object's bytes: the file itself, or a copy that is removed afterwards."""
    if is_local(url):
        if not Path(normalise(url)).exists():
            raise missing(url)
        yield Path(normalise(url))
        return
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder) / url.rstrip("/").rpartition("/")[2]
        _download(url, path)
        yield path


def _download(url: str, path: Path) -> None:
    if is_local(url):
        shutil.copyfile(normalise(url), path)
        return
    # In pieces, so that a checkpoint larger than memory can be fetched.
    size = next((found.num_bytes for found in list_objects(url)), 0)
    with path.open("wb") as file:
        for offset in range(0, size, _PIECE_BYTES):
            file.write(read_ranges(url, [(offset, min(_PIECE_BYTES, size - offset))])[0])


_PIECE_BYTES = 64 << 20


def _matches(url: str) -> list[ObjectInfo]:
    try:
        if not globs.is_glob(url):
            return [found for found in list_objects(url) if not globs.is_hidden(found.url, url)]
        matches = globs.matcher(url)
        return [found for found in list_objects(globs.fixed_folder(url)) if matches(found.url)]
    except StorageError as error:
        raise InputError(f"cannot read {url}: {error}") from error


def _concurrently(function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    # A pool of its own: inside the pool of ranges a task could wait for a thread that waits for it.
    with ThreadPoolExecutor(8, thread_name_prefix="attent-storage") as pool:
        return list(pool.map(function, items))


@functools.lru_cache(maxsize=1)
def _range_pool(pid: int) -> ThreadPoolExecutor:
    # One per process (pid): threads do not survive a fork.
    return ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="attent-ranges")


def _store(url: str) -> Storage:
    if is_local(url):
        return LocalFiles()
    scheme, _, rest = url.partition("://")
    if scheme not in _OBJECT_STORES:
        return FsspecFiles()
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if scheme == "s3" else ""
    return _object_store(f"{scheme}://{rest.partition('/')[0]}", endpoint, os.getpid())


@functools.lru_cache(maxsize=64)
def _object_store(root: str, endpoint: str, pid: int) -> Storage:
    return ObjectStore(root, endpoint=endpoint)


class ObjectStore:
    """Storage in one bucket of s3, gs or az, through obstore."""

    def __init__(self, root: str, *, endpoint: str = "") -> None:
        options: dict[str, Any] = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "timeout": _REQUEST_TIMEOUT,
            "allow_http": endpoint.startswith("http://"),
        }
        config = {"endpoint": endpoint} if endpoint else {}
        self._root = root
        self._store = obstore.store.from_url(
            root, config=config, client_options=options, retry_config=_RETRIES
        )

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        return self._get(url, {}, etag)

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        def fetch(wanted: Range) -> bytes:
            offset, num_bytes = wanted
            data = self._get(url, {"range": (offset, offset + num_bytes)}, etag)
            return check_length(url, data, wanted)

        if len(ranges) == 1:
            return [fetch(ranges[0])]
        return list(_range_pool(os.getpid()).map(fetch, ranges))

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        with _translated(prefix):
            with contextlib.suppress(FileNotFoundError):
                if key := self._key(prefix):
                    return [self._info(obstore.head(self._store, key))]
            pages = obstore.list(self._store, prefix=self._key(prefix) or None)
            return [self._info(meta) for page in pages for meta in page]

    def publish(self, url: str, data: bytes | Path) -> None:
        with _translated(url):
            obstore.put(self._store, self._key(url), data)

    def delete(self, url: str) -> None:
        with _translated(url), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, self._key(url))

    def _get(self, url: str, options: dict[str, Any], etag: str | None) -> bytes:
        with _translated(url):
            answer = obstore.get(self._store, self._key(url), options=options)
            check_etag(url, found=self._info(answer.meta).etag, expected=etag)
            return bytes(answer.bytes())

    def _key(self, url: str) -> str:
        return url.removeprefix(self._root).lstrip("/")

    def _info(self, meta: Any) -> ObjectInfo:
        stamp = f"{meta['last_modified'].timestamp():.3f}-{meta['size']:x}"
        etag = _unquoted(meta["e_tag"]) or stamp
        return ObjectInfo(join(self._root, meta["path"]), meta["size"], etag)


class FsspecFiles:
    """Storage at any other URL that fsspec knows; its `pipe` and `put` must be atomic."""

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        with _translated(url):
            files, path = _fsspec(url)
            _check_fsspec_etag(files, url, path, etag)
            return bytes(files.cat_file(path))

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        with _translated(url):
            files, path = _fsspec(url)
            _check_fsspec_etag(files, url, path, etag)
            starts = [offset for offset, _ in ranges]
            ends = [offset + num_bytes for offset, num_bytes in ranges]
            found = files.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
            pairs = zip(found, ranges, strict=True)
            return [check_length(url, bytes(data), wanted) for data, wanted in pairs]

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        with _translated(prefix):
            files, path = _fsspec(prefix)
            found = files.find(path, detail=True)
            # Names come back absolute and without scheme and host, or spelt in another way; what
            # stands after `path` is the part that the caller does not know.
            base = prefix.rstrip("/")
            return [
                _fsspec_info(_spelt(name, path=path, base=base), detail)
                for name, detail in found.items()
            ]

    def publish(self, url: str, data: bytes | Path) -> None:
        with _translated(url):
            files, path = _fsspec(url)
            files.makedirs(files._parent(path), exist_ok=True)
            if isinstance(data, Path):
                files.put_file(str(data), path)
            else:
                files.pipe_file(path, data)

    def delete(self, url: str) -> None:
        with _translated(url), contextlib.suppress(FileNotFoundError):
            files, path = _fsspec(url)
            files.rm_file(path)


def _fsspec(url: str) -> tuple[Any, str]:
    # Listings are not cached: another process may have written since.
    files, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return files, path


def _fsspec_info(url: str, detail: dict[str, Any]) -> ObjectInfo:
    size = int(detail["size"])
    for name in ("ETag", "etag", "md5", "checksum"):
        if etag := detail.get(name):
            return ObjectInfo(url, size, _unquoted(str(etag)))
    stamps = (detail.get(name) for name in ("mtime", "LastModified", "modified", "created"))
    stamp = next((one for one in stamps if one), 0)
    seconds = stamp.timestamp() if isinstance(stamp, datetime) else float(stamp)
    return ObjectInfo(url, size, f"{seconds:.6f}-{size:x}")


def _spelt(name: str, *, path: str, base: str) -> str:
    below = name.removeprefix(path.rstrip("/")).strip("/")
    return f"{base}/{below}" if below else base


def _check_fsspec_etag(files: Any, url: str, path: str, etag: str | None) -> None:
    if etag is not None:
        check_etag(url, found=_fsspec_info(url, files.info(path)).etag, expected=etag)


def _unquoted(etag: str | None) -> str:
    return (etag or "").removeprefix("W/").strip('"')


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except AttentError:
        raise
    except FileNotFoundError as error:
        raise missing(url) from error
    except (OSError, ObstoreError, ValueError) as error:
        raise StorageError(f"{url}: {error}") from error
