"""Metadata of a Lance file as it is stored, and its seal: digests of metadata and data.

Lance files have no checksums, and pylance ends the process for some damaged ones. The seal, a note
in the metadata, finds damage, not forgery: anyone can write another one.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xxhash

from attent_select.errors import InputError
from catalogs import storage

# The only key of the schema's metadata: pylance writes several in any order. Its value: the
# digest of the data, that of the metadata, and more.
NOTE: Final = "attent_select.seal"
_DIGITS: Final = 32
EMPTY: Final = "0" * (2 * _DIGITS)
# The note in the file: an entry of a map of protobuf, whose value is field 2 after its length.
_NOTE: Final = re.compile(re.escape(NOTE).encode() + rb"\x12[\x80-\xff]*[\x00-\x7f]([0-9a-f]{64})")

# Starts of the column metadata, and of the tables of columns and of global buffers; numbers of
# global buffers and of columns; version; magic.
_FOOTER: Final = struct.Struct("<QQQIIHH4s")
_ENTRY: Final = struct.Struct("<QQ")
_MAGIC: Final = b"LANC"
# Read for the metadata; more only if they are larger.
_TAIL_BYTES: Final = 16 << 10
_MAX_METADATA_BYTES: Final = 64 << 20
_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Metadata:
    """The metadata of a Lance file: its bytes from `start` to the end."""

    start: int
    data: bytes

    @property
    def seal(self) -> str | None:
        """Digests of data and metadata; None for files of other programs."""
        note = _NOTE.search(self.data)
        return note[1].decode() if note else None


def read_metadata(url: str, *, num_bytes: int, etag: str | None) -> Metadata:
    """Read the metadata of a Lance file.

    Raises:
        InputError: the file is truncated, or not a Lance file, or the metadata are damaged.
    """
    start = max(num_bytes - _TAIL_BYTES, 0)
    while True:
        extent = (start, num_bytes - start)
        tail = storage.read_ranges(url, [extent], etag=etag)[0] if num_bytes else b""
        first = _start(tail, url=url, num_bytes=num_bytes)
        if first >= start:
            break
        start = first
    metadata = Metadata(first, tail[first - start :])
    seal = metadata.seal
    is_sealed = NOTE.encode() in metadata.data
    if is_sealed and (seal is None or seal[_DIGITS:] != _digest(metadata.data)):
        raise _damage(url, "its metadata are not those that were written")
    return metadata


def write_seal(path: Path) -> None:
    """Replace the note `EMPTY` in a written file by the digests."""
    num_bytes = path.stat().st_size
    with path.open("r+b") as file:
        first = max(num_bytes - _MAX_METADATA_BYTES, 0)
        file.seek(first)
        tail = file.read()
        start = _start(tail, url=str(path), num_bytes=num_bytes)
        metadata = tail[start - first :]
        note = _NOTE.search(metadata)
        assert note is not None, "the writer has put the note there"
        file.seek(start + note.start(1))
        file.write(_data_digest(path, start).encode() + _digest(metadata).encode())


def check_data(path: Path, metadata: Metadata, *, url: str) -> None:
    """Check the data of a local file, which has a seal.

    Raises:
        InputError: a byte is not the one that was written.
    """
    assert metadata.seal is not None, "files of other programs are checked in another way"
    if _data_digest(path, metadata.start) != metadata.seal[:_DIGITS]:
        raise _damage(url, "its data are not those that were written")


def _start(tail: bytes, *, url: str, num_bytes: int) -> int:
    """Return where the metadata start, or a position before the tail that must be read for it."""
    if len(tail) < _FOOTER.size or tail[-len(_MAGIC) :] != _MAGIC:
        raise _damage(url, "it does not end as a Lance file does")
    columns, *tables, num_buffers, num_columns, _, _, _ = _FOOTER.unpack(tail[-_FOOTER.size :])
    column_table, buffer_table = tables
    start = int(min(columns, column_table, buffer_table))
    is_inside = max(columns, column_table, buffer_table) <= num_bytes - _FOOTER.size
    if not is_inside or num_buffers + num_columns > num_bytes // _ENTRY.size:
        raise _damage(url, "its footer points outside of the file")
    first = num_bytes - len(tail)
    if start >= first:
        entries = tail[buffer_table - first :][: num_buffers * _ENTRY.size]
        positions = [position for position, _ in _ENTRY.iter_unpack(entries)]
        start = min([start, *positions])
    if num_bytes - start > _MAX_METADATA_BYTES:
        raise InputError(
            f"{url} has {num_bytes - start} bytes of metadata, the limit is {_MAX_METADATA_BYTES}:"
            " write fewer samples to a shard"
        )
    return start


def _damage(url: str, problem: str) -> InputError:
    return InputError(
        f"{url} is not a complete Lance file: {problem}. It may be truncated or damaged: copy it"
        " again, or write it again with `attent ingest --convert lance`"
    )


def _digest(metadata: bytes) -> str:
    return xxhash.xxh3_128(_NOTE.sub(_without_value, metadata)).hexdigest()


def _without_value(note: "re.Match[bytes]") -> bytes:
    return note[0][: -len(EMPTY)] + EMPTY.encode()


def _data_digest(path: Path, num_bytes: int) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(min(_BLOCK_BYTES, num_bytes)):
            digest.update(block)
            num_bytes -= len(block)
    return digest.hexdigest()
