"""Many objects at once: copy, upload and delete folders; expand URL patterns."""

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from attent_select.errors import InputError, StorageError
from catalogs.concurrency import ordered_map
from catalogs.layout import join
from catalogs.storage import globs, local_files
from catalogs.storage.access import delete, info, list_objects, publish, read_ranges
from catalogs.storage.objects import ObjectInfo, missing_error
from catalogs.storage.urls import is_local, normalise

# A large object is copied to a local file in ranges of this size.
_COPY_BYTES = 64 << 20
_NUM_THREADS = 8

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def expand(patterns: Sequence[str]) -> list[ObjectInfo]:
    """List the objects that URLs, folders and globs (`*`, `?`, `[…]`, `{000..127}`) name.

    Sorted by URL, without duplicates. In a folder, files whose names start with `.` or `_` are
    skipped (`_SUCCESS`, `.crc`).

    Raises:
        InputError: a pattern matches nothing, is not supported, or cannot be read.
    """
    for pattern in patterns:
        globs.check(pattern)
    pairs = {
        (pattern, normalise(url)): None
        for pattern in patterns
        for url in globs.expand_braces(pattern)
    }
    counts = Counter(pattern for pattern, _ in pairs)
    # One listing covers a whole numbered series; one request per name would be slow.
    folders = [_folder_of(url, several=counts[pattern] > 1) for pattern, url in pairs]
    unique_folders = sorted(set(folders))
    listings = dict(zip(unique_folders, _map(_list, unique_folders), strict=True))
    objects: dict[str, ObjectInfo] = {}
    for (pattern, url), folder in zip(pairs, folders, strict=True):
        matches = globs.matcher(url)
        matching = {stored.url: stored for stored in listings[folder] if matches(stored.url)}
        if not matching:
            source = url if url == normalise(pattern) else f"{url} (from {pattern})"
            raise InputError(
                f"nothing found at {source}: expected a file, a folder, or a pattern that matches"
                " at least one file. Check the spelling, and that the credentials allow listing"
            )
        objects |= matching
    return sorted(objects.values(), key=lambda stored: stored.url)


def delete_all(urls: Iterable[str]) -> None:
    """Delete many objects concurrently."""
    _map(delete, urls)


def delete_folder(url: str) -> None:
    """Delete a folder and everything in it, if it exists."""
    if is_local(url):
        shutil.rmtree(normalise(url), ignore_errors=True)
    else:
        delete_all(stored.url for stored in list_objects(url))


def leftovers(folder: str) -> list[ObjectInfo]:
    """List incomplete files that crashes left under `folder`; object stores never show any."""
    return list(local_files.leftovers(normalise(folder))) if is_local(folder) else []


def download_folder(url: str, to: Path) -> None:
    """Copy every object under the folder `url` into the local folder `to`.

    Raises:
        MissingError: there is no object under `url`.
    """
    base, objects = normalise(url), list_objects(url)
    if not objects:
        raise missing_error(url)

    def download(source: ObjectInfo) -> None:
        target = to / source.url.removeprefix(base).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(source, target)

    _map(download, objects)


def download_files(url: str, names: Iterable[str], *, to: Path) -> None:
    """Copy the objects of these names under the folder `url` into the local folder `to`.

    Raises:
        MissingError: there is no object of a name.
    """

    def download(name: str) -> None:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        stored = info(join(url, name))
        if stored is None:
            raise missing_error(join(url, name))
        _download(stored, target)

    _map(download, names)


def upload_folder(folder: Path, url: str) -> None:
    """Publish every file of a local folder under `url`, each atomically, in any order."""
    base = normalise(url)

    def upload(path: Path) -> None:
        publish(join(base, path.relative_to(folder).as_posix()), path)

    _map(upload, [path for path in sorted(folder.rglob("*")) if path.is_file()])


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Yield a local path with the object's bytes: the file itself, or a temporary copy.

    Raises:
        MissingError: there is no object at `url`.
    """
    stored = info(url)
    if stored is None:
        raise missing_error(url)
    if is_local(url):
        yield Path(stored.url)
        return
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder) / stored.url.rpartition("/")[2]
        _download(stored, path)
        yield path


def _download(source: ObjectInfo, path: Path) -> None:
    with path.open("wb") as file:
        for offset in range(0, source.num_bytes, _COPY_BYTES):
            extent = (offset, min(_COPY_BYTES, source.num_bytes - offset))
            file.write(read_ranges(source.url, [extent], etag=source.etag)[0])


def _folder_of(url: str, *, several: bool) -> str:
    # The file system expands local globs: their parent folder may be the whole disk.
    is_local_glob = is_local(url) and globs.is_glob(url)
    return url if is_local_glob else globs.folder_to_list(url, several=several)


def _list(folder: str) -> list[ObjectInfo]:
    try:
        if globs.is_glob(folder):
            paths = [str(path) for path in Path("/").glob(folder.lstrip("/")) if path.is_file()]
            return [stored for path in paths for stored in list_objects(path)]
        return list_objects(folder)
    except StorageError as error:
        raise InputError(f"cannot read {folder}: {error}") from error


def _map(function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    return list(ordered_map(function, items, num_threads=_NUM_THREADS))
