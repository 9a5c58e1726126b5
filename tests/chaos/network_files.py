"""A network file system as a process may see it: failures that pass, and answers from caches.

`python network_files.py SECONDS ARGUMENTS` is `attent ARGUMENTS` on one. As with cached attributes
of NFS, for SECONDS a process sees a listing again, and does not see a file that it looked for in
vain. Every seventh rename fails once: before it is done, or after, when the answer was lost.
"""

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from catalogs.storage import access, retry
from catalogs.storage.local_files import LocalFiles
from catalogs.storage.objects import ObjectInfo, missing_error

RENAMES_PER_FAILURE = 7


class NetworkFiles(LocalFiles):
    """Local files, with caches of listings and of what was missing."""

    def __init__(self, cache_seconds: float) -> None:
        self._cache_seconds = cache_seconds
        self._missing: dict[str, float] = {}
        self._listings: dict[str, tuple[float, list[ObjectInfo]]] = {}

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        self._look_up(url)
        return super().read(url, etag=etag)

    def read_ranges(
        self, url: str, ranges: Sequence[Any], *, etag: str | None = None
    ) -> list[bytes]:
        self._look_up(url)
        return super().read_ranges(url, ranges, etag=etag)

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        time, listed = self._listings.get(prefix, (0.0, []))
        if monotonic() - time > self._cache_seconds:
            listed = super().list_objects(prefix)
            self._listings[prefix] = monotonic(), listed
        return listed

    def publish(self, url: str, data: bytes | Path) -> None:
        super().publish(url, data)
        self._forget(url)

    def delete(self, url: str) -> None:
        super().delete(url)
        self._forget(url)

    def _forget(self, url: str) -> None:
        """A process sees its own changes."""
        self._missing.pop(url, None)
        self._listings.clear()

    def _look_up(self, url: str) -> None:
        if monotonic() - self._missing.get(url, 0.0) < self._cache_seconds:
            raise missing_error(url)
        if not Path(url).exists():
            self._missing[url] = monotonic()


def install(cache_seconds: float) -> None:
    """Replace the local store of this process, for good."""
    files, numbers, replace = NetworkFiles(cache_seconds), itertools.count(1), os.replace

    def failing(source: Any, target: Any) -> None:
        number = next(numbers)
        if number % RENAMES_PER_FAILURE == 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(target))
        replace(source, target)
        if number % RENAMES_PER_FAILURE == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))

    os.replace = failing
    retry._FIRST_SECONDS = 0.02
    access.LocalFiles = lambda: files  # type: ignore[misc, assignment]


def main() -> None:
    cache_seconds = float(sys.argv.pop(1))
    from attent_select.__main__ import main as attent

    install(cache_seconds)
    attent()


if __name__ == "__main__":
    main()
