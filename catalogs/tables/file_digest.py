"""Digest of a table's file in the file itself: any changed byte of a run's table is found.

The digest is written into the notes in the footer. It covers all bytes of the file, with zeros in
place of the digest. It finds damage, not forgery: anyone can write another digest.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import xxhash

from attent_select.errors import InputError

# The note's key. Its value: the size of the file, and the digest, both in hexadecimal.
NOTE: Final = "file_digest_xxh3"
_SIZE_DIGITS = 16
_DIGEST_DIGITS = 32
UNKNOWN: Final = "0" * (_SIZE_DIGITS + _DIGEST_DIGITS)

# Digests by the names of their notes. xxh3 is as fast as memory; earlier versions wrote blake2b.
_DIGESTS: Final[dict[bytes, Callable[[], Any]]] = {
    NOTE.encode(): xxhash.xxh3_128,
    b"file_digest_blake2b": lambda: hashlib.blake2b(digest_size=_DIGEST_DIGITS // 2),
}
_NAME = re.compile(b'"(?:' + b"|".join(_DIGESTS) + b')"')
_VALUE = f': "([0-9a-f]{{{len(UNKNOWN)}}})"'.encode()
_NOTE = re.compile(b'"([^"]*)"' + _VALUE)
_BLOCK_BYTES = 1 << 20


def write_digest(path: Path) -> None:
    """Put the digest of a written file in the place of the note `UNKNOWN` in its footer."""
    with path.open("r+b") as file:
        size = file.seek(-8, os.SEEK_END) + 8
        footer_start = size - 8 - _footer_bytes(file.read(4))
        file.seek(footer_start)
        note = _NOTE.search(file.read())
        assert note is not None, "the notes of every table have the key"
        position = footer_start + note.start(2)
        file.seek(0)
        digest = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
        file.seek(position)
        file.write(f"{size:0{_SIZE_DIGITS}x}{digest}".encode())


def check_bytes(data: bytes, *, url: str) -> None:
    """Check a whole file against its digest. A file of another program has none.

    Raises:
        InputError: a byte differs from what was written.
    """
    if placed := _find(data, url=url, num_bytes=len(data)):
        actual, position, digest = placed
        actual.update(data[:position])
        actual.update(UNKNOWN.encode())
        actual.update(data[position + len(UNKNOWN) :])
        _compare(actual, digest, url=url)


def check_local(path: Path, tail: bytes, *, url: str) -> None:
    """Check a local file, whose last bytes `tail` include the footer. Raises as `check_bytes`."""
    num_bytes = path.stat().st_size
    if placed := _find(tail, url=url, num_bytes=num_bytes):
        actual, position, digest = placed
        position += num_bytes - len(tail)
        with path.open("rb", buffering=0) as file:
            _update(actual, file, num_bytes=position)
            actual.update(UNKNOWN.encode())
            file.seek(len(UNKNOWN), os.SEEK_CUR)
            _update(actual, file, num_bytes=num_bytes - file.tell())
        _compare(actual, digest, url=url)


def _update(digest: Any, file: io.FileIO, *, num_bytes: int) -> None:
    """Add the next bytes of a file; none beyond its end."""
    block = memoryview(bytearray(min(num_bytes, _BLOCK_BYTES)))
    while num_bytes and (size := file.readinto(block[:num_bytes])):
        digest.update(block[:size])
        num_bytes -= size


def _find(tail: bytes, *, url: str, num_bytes: int) -> tuple[Any, int, str] | None:
    """Return a new digest, the note's position in `tail`, and what the digest must become.

    None in a file of another program.

    Another program may copy our notes into a file that it writes; its size differs then.
    """
    footer = max(0, len(tail) - 8 - _footer_bytes(tail[-8:-4]))
    note = _NOTE.search(tail, footer)
    if note is None:
        if _NAME.search(tail, footer):
            raise _damage_error(url)
        return None
    name, size, digest = note[1], note[2][:_SIZE_DIGITS], note[2][_SIZE_DIGITS:]
    if int(size, 16) != num_bytes:
        return None
    if name not in _DIGESTS:  # a changed byte may be in the name
        raise _damage_error(url)
    return _DIGESTS[name](), note.start(2), digest.decode()


def _compare(actual: Any, expected: str, *, url: str) -> None:
    if actual.hexdigest() != expected:
        raise _damage_error(url)


def _damage_error(url: str) -> InputError:
    return InputError(
        f"{url} is damaged: its bytes are not those that were written. Restore it from a copy, or"
        " delete it and make it again"
    )


def _footer_bytes(length: bytes) -> int:
    return int.from_bytes(length, "little")
