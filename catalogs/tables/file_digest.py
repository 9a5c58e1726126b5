"""Digest of a table's file in the file itself: any changed byte of a run's table is found.

The digest is written into the notes in the footer. It covers all bytes of the file, with zeros in
place of the digest.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, Final

from attent_select.errors import InputError

# The note's key. Its value: the size of the file, and the digest, both in hexadecimal.
NOTE: Final = "file_digest_blake2b"
_SIZE_DIGITS = 16
_DIGEST_DIGITS = 32
UNKNOWN: Final = "0" * (_SIZE_DIGITS + _DIGEST_DIGITS)

_NOTE = re.compile(f'"{NOTE}": "([0-9a-f]{{{len(UNKNOWN)}}})"'.encode())
_NAME = f'"{NOTE}"'.encode()
_ANY_NAME = re.compile(f': "([0-9a-f]{{{len(UNKNOWN)}}})"'.encode())
_BLOCK_BYTES = 1 << 20


def write_digest(path: Path) -> None:
    """Put the digest of a written file in the place of the note `UNKNOWN` in its footer."""
    with path.open("r+b") as file:
        size = file.seek(-8, os.SEEK_END) + 8
        footer_start = size - 8 - _footer_bytes(file.read(4))
        file.seek(footer_start)
        note = _NOTE.search(file.read())
        assert note is not None, "the notes of every table have the key"
        position = footer_start + note.start(1)
        file.seek(0)
        digest = hashlib.file_digest(file, _new).hexdigest()
        file.seek(position)
        file.write(f"{size:0{_SIZE_DIGITS}x}{digest}".encode())


def check_bytes(data: bytes, *, url: str) -> None:
    """Check a whole file against its digest. A file of another program has none.

    Raises:
        InputError: a byte differs from what was written.
    """
    placed = _find(data, url=url, num_bytes=len(data))
    if placed is not None:
        position, digest = placed
        zeros = b"0" * len(UNKNOWN)
        actual = _new(data[:position] + zeros + data[position + len(zeros) :]).hexdigest()
        _compare(actual, digest, url=url)


def check_local(path: Path, tail: bytes, *, url: str) -> None:
    """Check a local file, whose last bytes `tail` include the footer. Raises as `check_bytes`."""
    num_bytes = path.stat().st_size
    placed = _find(tail, url=url, num_bytes=num_bytes)
    if placed is None:
        return
    position, digest = placed
    position += num_bytes - len(tail)
    actual = _new()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            first = file.tell() - len(block)
            start, end = max(position, first), min(position + len(UNKNOWN), first + len(block))
            if start < end:
                zeros = b"0" * (end - start)
                block = block[: start - first] + zeros + block[end - first :]
            actual.update(block)
    _compare(actual.hexdigest(), digest, url=url)


def _find(tail: bytes, *, url: str, num_bytes: int) -> tuple[int, str] | None:
    """Return the note's position in `tail` and its digest; None in a file of another program.

    Another program may copy our notes into a file that it writes; its size differs then.
    """
    footer = max(0, len(tail) - 8 - _footer_bytes(tail[-8:-4]))
    # By its form too: a changed byte may be in the name of the note.
    note = _NOTE.search(tail, footer) or _ANY_NAME.search(tail, footer)
    if note is None:
        if _NAME in tail[footer:]:
            raise _damage_error(url)
        return None
    size, digest = note[1][:_SIZE_DIGITS], note[1][_SIZE_DIGITS:]
    return (note.start(1), digest.decode()) if int(size, 16) == num_bytes else None


def _compare(actual: str, expected: str, *, url: str) -> None:
    if actual != expected:
        raise _damage_error(url)


def _damage_error(url: str) -> InputError:
    return InputError(
        f"{url} is damaged: its bytes are not those that were written. Restore it from a copy, or"
        " delete it and make it again"
    )


def _footer_bytes(length: bytes) -> int:
    return int.from_bytes(length, "little")


def _new(data: bytes = b"") -> Any:
    return hashlib.blake2b(data, digest_size=_DIGEST_DIGITS // 2)
