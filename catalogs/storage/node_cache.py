"""Ranges of remote objects kept on a local disk, shared by all processes of a node.

What is kept under which name, and what happens when space or permission runs out. Not here: who
reads through it (`__init__.py`) or how it is configured (`pipeline`).

An object (URL and etag) has a folder with two files: `data`, a sparse file that has each range
at its own offset, and `have`, a journal of (offset, length) that is appended to once the bytes
are written. So a process that is killed leaves ranges that nobody counts, never wrong bytes.
The disk itself may forget the end of what was written when the machine stops; everything
therefore lies under the boot it was written in, and an earlier boot's is removed. A folder is
evicted by renaming it, then removing its journal first: whoever has it open reads on, or finds
nothing.
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
# After writing a 64th of what is allowed a process looks whether there is too much; it evicts down
# to three quarters. So up to 16 processes together stay below the limit.
_LOOK_SHARE = 1 / 64
_KEPT_SHARE = 3 / 4

Fetch = Callable[[Sequence[Range]], list[bytes]]


class NodeCache:
    """At most about `max_bytes` in `folder`. Thread-safe, and safe for any number of processes.

    A disk that is full, fails or may not be written to is no error: a warning says so once, and
    what is not there, or cannot be read, is read from the storage.
    """

    def __init__(self, folder: str, *, max_bytes: int) -> None:
        """Nothing is written yet.

        Raises:
            InputError: `max_bytes` is not positive.
        """
        if max_bytes < 1:
            raise InputError(f"a cache of {max_bytes} bytes: expected at least 1")
        boot = _BOOT.read_text().strip() if _BOOT.is_file() else "boot"
        self._folder = Path(folder).expanduser() / f"attent-{boot}"
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._unseen = float(max_bytes)  # bytes written since this process looked
        self._writes = True

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str, fetch: Fetch
    ) -> tuple[list[bytes], int]:
        """The bytes of each range, and how many of them were here; `fetch` gets the others."""
        with self._opened(url, etag) as entry:
            found = [None if entry is None else self._kept(entry, wanted) for wanted in ranges]
            lacking = [wanted for wanted, data in zip(ranges, found, strict=True) if data is None]
            fetched = fetch(lacking) if lacking else []
            if entry is not None and fetched:
                self._keep(entry, lacking, fetched)
        rest = iter(fetched)
        data = [next(rest) if piece is None else piece for piece in found]
        return data, sum(map(len, data)) - sum(map(len, fetched))

    def _kept(self, entry: "_Entry", wanted: Range) -> bytes | None:
        try:
            return entry.read(wanted)
        except OSError as error:
            self._give_up(error)
            return None

    def _keep(self, entry: "_Entry", ranges: Sequence[Range], data: Sequence[bytes]) -> None:
        if not self._writes:
            return
        try:
            entry.write(ranges, data)
            with self._lock:
                self._unseen += sum(map(len, data))
                has_to_look = self._unseen >= self._max_bytes * _LOOK_SHARE
                if has_to_look:
                    self._unseen = 0
            if has_to_look:
                self._evict()
        except OSError as error:
            self._give_up(error)

    @contextlib.contextmanager
    def _opened(self, url: str, etag: str) -> Iterator["_Entry | None"]:
        name = hashlib.blake2b(f"{url}\n{etag}".encode(), digest_size=16).hexdigest()
        with contextlib.ExitStack() as stack:
            entry = None
            try:
                if self._writes:
                    (self._folder / name).mkdir(parents=True, exist_ok=True)
                entry = _Entry(self._folder / name, writes=self._writes, stack=stack)
            except FileNotFoundError:
                pass  # evicted this moment, or never kept
            except OSError as error:
                self._give_up(error)
            yield entry

    def _give_up(self, error: OSError) -> None:
        with self._lock:
            told, self._writes = not self._writes, False
        if not told:
            warnings.warn(
                f"the node's cache in {self._folder.parent} cannot be used ({error}): the training "
                "goes on without keeping more",
                stacklevel=2,
            )

    def _evict(self) -> None:
        """Remove what was used least recently, unless another process is doing so."""
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
        for left in self._folder.glob("evicted-*"):  # by a process that was killed meanwhile
            shutil.rmtree(left, ignore_errors=True)
        entries = []
        for folder in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                used, data = (folder / "have").stat().st_mtime, (folder / "data").stat()
                entries.append((used, data.st_blocks * 512, folder))
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self._max_bytes * _KEPT_SHARE:
                return
            doomed = folder.with_name(f"evicted-{uuid.uuid4().hex}")
            folder.rename(doomed)
            (doomed / "have").unlink(missing_ok=True)
            shutil.rmtree(doomed, ignore_errors=True)
            total -= size


class _Entry:
    """One object's open files. Both are opened within one folder, wherever that is moved to."""

    def __init__(self, folder: Path, *, writes: bool, stack: contextlib.ExitStack) -> None:
        mode = os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY
        within = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, within)
        # In this order: with the data gone and its journal left, zeros would pass for data.
        self._data = os.open("data", mode, 0o600, dir_fd=within)
        stack.callback(os.close, self._data)
        self._have = os.open("have", mode | os.O_APPEND, 0o600, dir_fd=within)
        stack.callback(os.close, self._have)
        if writes:
            os.utime(self._have)
        size = os.fstat(self._have).st_size // _RECORD.itemsize * _RECORD.itemsize
        self._starts, self._ends = _merged(np.frombuffer(os.pread(self._have, size, 0), _RECORD))

    def read(self, wanted: Range) -> bytes | None:
        """The bytes, if all of them are here."""
        offset, size = wanted
        place = bisect_right(self._starts, offset) - 1
        if place < 0 or offset + size > self._ends[place]:
            return None
        data = bytearray()
        while len(data) < size:
            piece = os.pread(self._data, size - len(data), offset + len(data))
            if not piece:
                return None
            data += piece
        return bytes(data)

    def write(self, ranges: Sequence[Range], data: Sequence[bytes]) -> None:
        for (offset, _), piece in zip(ranges, data, strict=True):
            written = 0
            while written < len(piece):
                written += os.pwrite(self._data, memoryview(piece)[written:], offset + written)
        # Records of 16 bytes never lie across two pages, so that none is ever written in part.
        os.write(self._have, np.array(list(ranges), "<u8").tobytes())


def _merged(records: "np.ndarray") -> tuple[list[int], list[int]]:
    """Disjoint ranges as starts and ends, ascending."""
    starts: list[int] = []
    ends: list[int] = []
    for offset, size in np.sort(records, order="offset").tolist():
        if ends and offset <= ends[-1]:
            ends[-1] = max(ends[-1], offset + size)
        else:
            starts.append(offset)
            ends.append(offset + size)
    return starts, ends
