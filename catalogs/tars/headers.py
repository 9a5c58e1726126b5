"""Headers of a tar file: its members, grouped into samples by the rules of the webdataset library.

Consecutive members with one key are a sample. The key ends at the first dot of the file name; the
rest, in lower case, is the extension. Unlike the library, hidden files (`._a.jpg`) are skipped, and
links, truncated files and joined tar files are errors: the library reads less, silently.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from attent_select import schema
from attent_select.errors import InputError
from catalogs import storage
from catalogs.storage.objects import ObjectInfo
from catalogs.tables import frames
from catalogs.tars.compressed import is_compressed, read_decompressed

BLOCK = tarfile.BLOCKSIZE
# Members larger than this are skipped when a tar file is inspected; smaller ones are read.
_WINDOW_BYTES = 4 << 20
_MAX_MEMBER_BYTES = (1 << 32) - 1
# Extended headers (long names, PAX records) are read completely by tarfile.
_MAX_HEADER_BYTES = 1 << 20
_EXTENDED_HEADERS = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
# Fields of a header block.
_NAME, _SIZE, _CHECKSUM = slice(100), slice(124, 136), slice(148, 156)
_TYPE, _PREFIX = 156, 345
_REGULAR = tarfile.REGTYPE[0]
_OCTAL = b"01234567"
_META = re.compile(r"__[^/]*__($|/)")


def member_table(stored: ObjectInfo) -> pa.Table:
    """Return the member index of a tar file (`schema.MEMBERS`).

    Offsets in a compressed file are those of its decompressed bytes.

    Raises:
        InputError: the file is damaged, or its members are not in the order of the samples.
    """
    # In the order of the columns; a dict for each member would take longer than reading it.
    columns: tuple[list[Any], ...] = ([], [], [], [], [])
    samples = _Samples(stored.url)
    for member in _walk(stored):
        parts = split_name(member.name)
        if parts is None:
            continue
        if not member.isreg():
            raise InputError(
                f"{stored.url}: {member.name} is a link or a device: expected only regular files."
                " Create the tar file again with `tar --dereference --hard-dereference`"
            )
        key, ext = parts
        values = (samples.add(key, ext), key, ext, member.offset_data, member.size)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    samples.end()
    table_schema = frames.arrow_schema(dict(schema.MEMBERS))
    assert table_schema.names == [schema.ROW, "key", "ext", "offset", "num_bytes"]
    arrays = map(pa.array, columns, table_schema.types)
    return pa.Table.from_arrays(list(arrays), schema=table_schema)


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and extension; None for a member that belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    return (folder + slash + stem, ext.lower()) if stem and ext and not _META.match(name) else None


class _Samples:
    """Numbering of samples, with a check that the members of each are next to each other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._row = -1
        self._key: str | None = None
        self._exts: list[str] = []
        # Key → extensions of its first sample; equal ones are one object.
        self._earlier: dict[str, tuple[str, ...]] = {}
        self._interned: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, key: str, ext: str) -> int:
        """Return the row of the sample that the next member belongs to."""
        if key != self._key:
            self.end()
            self._key, self._exts = key, []
            self._row += 1
        elif ext in self._exts:
            raise InputError(f"{self._url}: sample {key!r} has a duplicate member '.{ext}'")
        self._exts.append(ext)
        return self._row

    def end(self) -> None:
        if self._key is None:
            return
        exts = tuple(self._exts)
        earlier = self._earlier.setdefault(self._key, self._interned.setdefault(exts, exts))
        if not set(earlier) & set(exts):
            raise InputError(
                f"{self._url}: the members of sample {self._key!r} are not next to each other:"
                f" {', '.join(earlier)} come first, {', '.join(exts)} after other samples. Create"
                " the tar file with sorted names (`tar --sort=name`)"
            )


def _walk(stored: ObjectInfo) -> Iterator[tarfile.TarInfo]:
    """Yield the members except folders. Raises `InputError` if the file is truncated or damaged."""
    url = stored.url
    file = _open(stored)
    try:
        with tarfile.TarFile(fileobj=file, tarinfo=_Member, errors="replace") as archive:
            while (member := archive.next()) is not None:
                # Drop the headers that tarfile keeps; typeshed lacks this attribute.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.issparse() or not 0 <= member.size <= _MAX_MEMBER_BYTES:
                    raise InputError(f"{url}: {member.name} is sparse or larger than 4 GiB")
                if not member.isdir():
                    yield member
            file.seek(archive.offset)
            end = file.read(BLOCK)
            rest = _has_data(file)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(
            f"{url} is damaged: it has hundreds of extended headers in a row. Create it again"
        ) from error
    # A damaged header may contain any numbers and any text.
    except (tarfile.TarError, ValueError, OverflowError, LookupError) as error:
        raise InputError(
            f"{url} is not a complete tar file: {error}. It may be truncated; copy it again"
        ) from error
    # tarfile accepts a file that ends between two members or within a header.
    if end != bytes(BLOCK):
        raise InputError(
            f"{url} is not a complete tar file: expected its end mark at byte {archive.offset}."
            " It may be truncated; copy it again"
        )
    if rest:
        raise InputError(
            f"{url} has data after its end mark at byte {archive.offset}: it is several tar files"
            " in one, of which most programs read only the first. Ingest them as separate files, or"
            " join them with `tar --concatenate`"
        )


def _has_data(file: io.BufferedIOBase) -> bool:
    """Whether anything except zeros follows."""
    while chunk := file.read(_WINDOW_BYTES):
        if chunk.count(0) != len(chunk):
            return True
    return False


def _open(stored: ObjectInfo) -> io.BufferedIOBase:
    if is_compressed(stored.url):
        return io.BytesIO(read_decompressed(stored))
    return io.BufferedReader(_ObjectFile(stored), _WINDOW_BYTES)


class _Member(tarfile.TarInfo):
    """A member whose extended headers are bounded in size, and whose plain header is read fast."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        """Return the member of a header block: only the name and the size of a plain file.

        tarfile also reads owners, times and modes, which takes five times as long as all else.
        """
        digits = bytes(buf[_SIZE]).rstrip(b" \0"), bytes(buf[_CHECKSUM]).strip(b" \0")
        if not (len(buf) == BLOCK and buf[_TYPE] == _REGULAR and buf[_PREFIX] == 0):
            return super().frombuf(buf, encoding, errors)
        if not all(each.isdigit() and not each.strip(_OCTAL) for each in digits):
            return super().frombuf(buf, encoding, errors)
        # As if the checksum's own eight bytes were spaces.
        checksum = sum(buf) - sum(buf[_CHECKSUM]) + 8 * ord(" ")
        if int(digits[1], 8) != checksum:
            return super().frombuf(buf, encoding, errors)
        member = cls(bytes(buf[_NAME]).partition(b"\0")[0].decode(encoding, errors))
        member.size, member.chksum = int(digits[0], 8), checksum
        return member

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED_HEADERS and self.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"an extended header of {self.size} bytes exceeds the limit of {_MAX_HEADER_BYTES}"
            )
        parsed: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return parsed


class _ObjectFile(io.RawIOBase):
    """Seekable file over a stored object."""

    def __init__(self, stored: ObjectInfo) -> None:
        super().__init__()
        self._stored = stored
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {
            io.SEEK_SET: 0,
            io.SEEK_CUR: self._position,
            io.SEEK_END: self._stored.num_bytes,
        }
        self._position = starts[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(0, min(len(buffer), self._stored.num_bytes - self._position))
        if size:
            ranges = [(self._position, size)]
            (data,) = storage.read_ranges(self._stored.url, ranges, etag=self._stored.etag)
            buffer[:size] = data
            self._position += size
        return size
