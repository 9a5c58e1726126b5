"""Storage on the local file system, or a mounted one: read, list and atomically publish files.

Errors of a network file system that may pass (stale handle, I/O error) are retried.
"""

import contextlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from attent_select.errors import InputError
from catalogs.storage.objects import ObjectInfo, Range, check_etag, check_length, translate_errors
from catalogs.storage.retry import retry

# A file that is being written next to its final path. Listings skip those that a crash left.
_TEMPORARY_SUFFIX = ".attent-tmp"
# A temporary file of this age is no longer being written.
_ABANDONED_SECONDS = 3600.0


class LocalFiles:
    """Storage whose URLs are absolute paths."""

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        def read() -> bytes:
            with _open(url, etag=etag) as file:
                return file.read()

        return retry(read)

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        def read() -> list[bytes]:
            with _open(url, etag=etag) as file:
                descriptor = file.fileno()
                return [check_length(url, _pread(descriptor, extent), extent) for extent in ranges]

        return retry(read)

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        path = Path(prefix)

        def walk() -> list[ObjectInfo]:
            if path.is_dir():
                return list(_walk(path))
            return [_info(prefix, path.stat())] if path.exists() else []

        with translate_errors(prefix):
            return retry(walk)

    def publish(self, url: str, data: bytes | Path) -> None:
        with translate_errors(url):
            retry(lambda: _publish(Path(url), data))

    def delete(self, url: str) -> None:
        with translate_errors(url):
            retry(lambda: Path(url).unlink(missing_ok=True))


def leftovers(folder: str) -> Iterator[ObjectInfo]:
    """List incomplete files under `folder` that crashes left at least an hour ago."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_TEMPORARY_SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    status = Path(parent, name).stat()
                    if time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        yield _info(str(Path(parent, name)), status)


def _publish(path: Path, data: bytes | Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}")
    _make_folder(path.parent)
    try:
        _write_synced(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _info(url: str, status: os.stat_result) -> ObjectInfo:
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return ObjectInfo(url=url, num_bytes=status.st_size, etag=etag)


def _walk(folder: Path) -> Iterator[ObjectInfo]:
    """List every file below, also through links; each folder once, because links may be cyclic."""
    visited = set()
    for parent, folders, names in os.walk(folder, onerror=_raise_unless_gone, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in names:
            # Skip files that were deleted since they were listed.
            with contextlib.suppress(FileNotFoundError):
                path = Path(parent, name)
                status = path.stat()
                if stat.S_ISREG(status.st_mode) and not name.endswith(_TEMPORARY_SUFFIX):
                    yield _info(str(path), status)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _pread(descriptor: int, extent: Range) -> bytes:
    offset, num_bytes = extent
    data = os.pread(descriptor, num_bytes, offset)
    # One pread returns at most 2 GiB on Linux; continue to the end of the range or file.
    while len(data) < num_bytes:
        more = os.pread(descriptor, num_bytes - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"cannot write into {path}: it or one of its parents is a file. Choose another folder"
        ) from error


def _write_synced(path: Path, data: bytes | Path) -> None:
    with path.open("xb") as file:
        if isinstance(data, Path):
            with data.open("rb") as source:
                shutil.copyfileobj(source, file, length=1 << 20)
        else:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _open(url: str, *, etag: str | None) -> Iterator[BinaryIO]:
    with translate_errors(url), Path(url).open("rb") as file:
        # The etag of the open file, so that a replaced file is detected.
        check_etag(url, actual=_info(url, os.fstat(file.fileno())).etag, expected=etag)
        yield file
