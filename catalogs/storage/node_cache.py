"""Cache of remote ranges on a local disk, shared by all processes of a node.

An object (URL and etag) has a folder with two files: `data`, a sparse file with each range at its
own offset, and `have`, a journal of (offset, length) that is appended to after the bytes are
written. A killed process therefore leaves unused ranges, never wrong bytes.

A machine that stops may lose the last writes. Therefore each boot of the machine has its own
folder, and folders of earlier boots are removed. Eviction renames an object's folder, then removes
its journal first: a process that has it open continues to read, or finds no ranges.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from attent_select.errors import InputError
from catalogs.storage.objects import Range

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_RECORD = np.dtype([("offset", "<u8"), ("size", "<u8")])
# A process checks the size after it wrote this share of the limit, and evicts down to three
# quarters. So up to 16 processes together stay below the limit.
_CHECK_SHARE = 1 / 64
_KEPT_SHARE = 3 / 4

Fetch = Callable[[Sequence[Range]], list[bytes]]


class NodeCache:
    """Cache of about `max_bytes` in `folder`, safe for many threads and processes.

    A disk that is full, fails or is read-only causes one warning, not an error: ranges that are not
    cached, or cannot be read from the cache, are read from storage.
    """

    def __init__(self, folder: str, *, max_bytes: int) -> None:
        """Configure the cache without writing to the disk.

        Raises:
            InputError: `max_bytes` is not positive.
        """
        if max_bytes < 1:
            raise InputError(f"cache size of {max_bytes} bytes: expected at least 1")
        boot = _BOOT.read_text().strip() if _BOOT.is_file() else "boot"
        self._folder = Path(folder).expanduser() / f"attent-{boot}"
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._unchecked_bytes = float(max_bytes)  # written since the last check of the size
        self._can_write = True

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str, fetch: Fetch
    ) -> tuple[list[bytes], int]:
        """Return the bytes of each range and how many came from the cache; `fetch` the others."""
        with self._open(url, etag) as entry:
            cached = [None if entry is None else self._read(entry, extent) for extent in ranges]
            missing = [extent for extent, data in zip(ranges, cached, strict=True) if data is None]
            fetched = fetch(missing) if missing else []
            if entry is not None and fetched:
                self._write(entry, missing, fetched)
        rest = iter(fetched)
        data = [next(rest) if hit is None else hit for hit in cached]
        return data, sum(map(len, data)) - sum(map(len, fetched))

    def _read(self, entry: "_Entry", extent: Range) -> bytes | None:
        try:
            return entry.read(extent)
        except OSError as error:
            self._stop_writing(error)
            return None

    def _write(self, entry: "_Entry", ranges: Sequence[Range], data: Sequence[bytes]) -> None:
        if not self._can_write:
            return
        try:
            entry.write(ranges, data)
            with self._lock:
                self._unchecked_bytes += sum(map(len, data))
                must_check = self._unchecked_bytes >= self._max_bytes * _CHECK_SHARE
                if must_check:
                    self._unchecked_bytes = 0
            if must_check:
                self._evict()
        except OSError as error:
            self._stop_writing(error)

    @contextlib.contextmanager
    def _open(self, url: str, etag: str) -> Iterator["_Entry | None"]:
        name = hashlib.blake2b(f"{url}\n{etag}".encode(), digest_size=16).hexdigest()
        with contextlib.ExitStack() as stack:
            entry = None
            try:
                if self._can_write:
                    (self._folder / name).mkdir(parents=True, exist_ok=True)
                entry = _Entry(self._folder / name, writes=self._can_write, stack=stack)
            except FileNotFoundError:
                pass  # just evicted, or never written
            except OSError as error:
                self._stop_writing(error)
            yield entry

    def _stop_writing(self, error: OSError) -> None:
        with self._lock:
            has_warned, self._can_write = not self._can_write, False
        if not has_warned:
            warnings.warn(
                f"the node cache in {self._folder.parent} cannot be used ({error}): training"
                " continues without writing to it",
                stacklevel=2,
            )

    def _evict(self) -> None:
        """Remove the least recently used objects, unless another process is doing so."""
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove_earlier_boots()
                self._remove_oldest()
        finally:
            os.close(lock)

    def _remove_earlier_boots(self) -> None:
        for other in self._folder.parent.glob("attent-*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)

    def _remove_oldest(self) -> None:
        for folder in self._folder.glob("evicted-*"):  # left by a process that was killed
            shutil.rmtree(folder, ignore_errors=True)
        entries = []
        for folder in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                used, data = (folder / "have").stat().st_mtime, (folder / "data").stat()
                entries.append((used, data.st_blocks * 512, folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self._max_bytes * _KEPT_SHARE:
                return
            evicted = folder.with_name(f"evicted-{uuid.uuid4().hex}")
            folder.rename(evicted)
            (evicted / "have").unlink(missing_ok=True)
            shutil.rmtree(evicted, ignore_errors=True)
            total -= size


class _Entry:
    """Open files of one object, both in the same folder even if it is renamed."""

    def __init__(self, folder: Path, *, writes: bool, stack: contextlib.ExitStack) -> None:
        mode = os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        # In this order: a journal without its data would make zeros pass for data.
        self._data = os.open("data", mode, 0o600, dir_fd=directory)
        stack.callback(os.close, self._data)
        self._have = os.open("have", mode | os.O_APPEND, 0o600, dir_fd=directory)
        stack.callback(os.close, self._have)
        if writes:
            os.utime(self._have)
        size = os.fstat(self._have).st_size // _RECORD.itemsize * _RECORD.itemsize
        self._starts, self._ends = _merge(np.frombuffer(os.pread(self._have, size, 0), _RECORD))

    def read(self, extent: Range) -> bytes | None:
        """Return the bytes if all of them are cached."""
        offset, size = extent
        position = bisect_right(self._starts, offset) - 1
        if position < 0 or offset + size > self._ends[position]:
            return None
        data = bytearray()
        while len(data) < size:
            block = os.pread(self._data, size - len(data), offset + len(data))
            if not block:
                return None
            data += block
        return bytes(data)

    def write(self, ranges: Sequence[Range], data: Sequence[bytes]) -> None:
        for (offset, _), block in zip(ranges, data, strict=True):
            written = 0
            while written < len(block):
                written += os.pwrite(self._data, memoryview(block)[written:], offset + written)
        # A record of 16 bytes never crosses a page, so that none is written in part.
        os.write(self._have, np.array(list(ranges), "<u8").tobytes())


def _merge(records: "np.ndarray") -> tuple[list[int], list[int]]:
    """Merge the ranges into disjoint ones; return their starts and ends, ascending."""
    starts: list[int] = []
    ends: list[int] = []
    for offset, size in np.sort(records, order="offset").tolist():
        if ends and offset <= ends[-1]:
            ends[-1] = max(ends[-1], offset + size)
        else:
            starts.append(offset)
            ends.append(offset + size)
    return starts, ends
