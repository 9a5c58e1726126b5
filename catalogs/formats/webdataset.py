"""WebDataset shards: tar files in which consecutive members with one key are one sample.

Members are read by offset, through the member index that ingestion wrote.

`000012.image.png` belongs to the sample with key `000012`; its column is `image`, its type `png`. A
single extension (`a.cls`) is both. Members are decoded by an allow-list of types, never by pickle:
cls and index → int, txt → str, json → object, everything else stays bytes. A member that cannot be
decoded also stays bytes, so that the task can give that sample a status.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attent_select import schema
from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.read_plan import (
    FetchedRanges,
    ReadPlan,
    check_columns,
    check_rows,
    coalesce_bounded,
    read_method,
)
from catalogs.shard_format import Inspection, Reading, Sample, Shard
from catalogs.storage.objects import ObjectInfo
from catalogs.tables import frames
from catalogs.tables.byte_cache import BoundedCache

_BLOCK = tarfile.BLOCKSIZE
# Members larger than this are skipped when a tar file is inspected; smaller ones are read.
_WINDOW_BYTES = 4 << 20
_MAX_MEMBER_BYTES = (1 << 32) - 1

_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "cls": int,
    "index": int,
    "txt": lambda data: data.decode("utf-8"),
    "json": json.loads,
}
_MAGIC: Final = {b"\x89PNG\r\n": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif"}


class Webdataset:
    """The WebDataset shard format."""

    suffixes: tuple[str, ...] = (".tar",)
    keeps_members = True

    def inspect(self, url: str) -> Inspection:
        """Read all headers; skip the data of large members."""
        stored = storage.info(url)
        if stored is None:
            raise MissingError(f"{url} was not found: expected a tar file")
        table = _member_table(stored)
        index = _Members.of(table)
        return Inspection(index.num_samples, tuple(index.columns), table)

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Read the members `columns` of the samples at `rows`; None if a sample lacks one."""
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        index, chosen = _choose(shard, row_array, columns)
        plan = _plan(shard, index, chosen, num_samples=len(row_array))
        fetched = FetchedRanges(
            plan.ranges, storage.read_ranges(shard.uri, plan.ranges, etag=shard.etag)
        )
        values: dict[str, list[Any]] = {name: [None] * len(row_array) for name in columns}
        members = zip(
            np.searchsorted(row_array, index.rows[chosen]).tolist(),
            index.codes[chosen].tolist(),
            index.offsets[chosen].tolist(),
            index.sizes[chosen].tolist(),
            chosen.tolist(),
            strict=True,
        )
        for position, code, offset, size, member in members:
            value = _decode(bytes(fetched.cut(offset, size)), index.kinds[member])
            values[index.columns[code]][position] = value
        return Reading(
            values, len(row_array), fetched.num_bytes, plan.bytes_selected, len(plan.ranges)
        )

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """Plan the cheapest requests for the members `columns`."""
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        index, chosen = _choose(shard, row_array, columns)
        return _plan(shard, index, chosen, num_samples=len(row_array))

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """Raise `InputError`: samples of a tar file are read individually."""
        raise InputError(
            f"{shard.uri} is a tar file and has no row groups: choose rows per block"
            " (`granularity: 256`) or whole shards (`granularity: shard`)"
        )

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write ordinals as keys, columns in the order of their names, times and owners as 0."""
        ordinal = -1
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for ordinal, sample in enumerate(samples):
                if not sample:
                    raise InputError(f"cannot write {path}: sample {ordinal} has no columns")
                for column in sorted(sample):
                    kind, data = _encode(sample[column], f"{path}: {column!r} of {ordinal}")
                    member = tarfile.TarInfo(_member_name(f"{ordinal:06d}", column, kind, path))
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        if ordinal < 0:
            path.unlink()
            raise InputError(f"no samples to write to {path}: expected at least one")


def _choose(
    shard: Shard, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> tuple["_Members", npt.NDArray[np.int64]]:
    """Return the member index, and the positions of the members to read."""
    index = _members_of(shard)
    check_columns(columns, known=index.columns, url=shard.uri)
    return index, index.choose(rows, columns)


def _plan(
    shard: Shard, index: "_Members", chosen: npt.NDArray[np.int64], *, num_samples: int
) -> ReadPlan:
    offsets, sizes = index.offsets[chosen], index.sizes[chosen]
    ranges = coalesce_bounded(
        list(zip(offsets.tolist(), sizes.tolist(), strict=True)),
        request_bytes=storage.request_bytes(shard.uri),
        num_samples=num_samples,
    )
    padded = -(-sizes // _BLOCK) * _BLOCK
    return ReadPlan(
        read_method(ranges, shard_bytes=shard.num_bytes, otherwise="ranges"),
        ranges,
        bytes_selected=int(padded.sum()) + _BLOCK * len(chosen),
        decoded_bytes=int(sizes.sum()),
    )


@dataclass(frozen=True)
class _Members:
    """Member index in memory, in the order of the tar file.

    `rows`, `offsets` and `sizes` of the data, and `codes` (indices into `columns`) are
    int64[members]; `kinds` are the types of the members.
    """

    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    columns: list[str]
    kinds: list[str]

    @classmethod
    def of(cls, table: pa.Table) -> "_Members":
        # Dictionary-encoded, so that equal kinds are one string in memory.
        exts = table["ext"].combine_chunks().dictionary_encode()
        unique_names = [_column_and_kind(ext) for ext in exts.dictionary.to_pylist()]
        names = [unique_names[code] for code in exts.indices.to_pylist()]
        columns = list(dict.fromkeys(column for column, _ in names))
        code = {column: position for position, column in enumerate(columns)}
        return cls(
            rows=table[schema.ROW].to_numpy().astype(np.int64),
            offsets=table["offset"].to_numpy().astype(np.int64),
            sizes=table["num_bytes"].to_numpy().astype(np.int64),
            codes=np.array([code[column] for column, _ in names], dtype=np.int64),
            columns=columns,
            kinds=[kind for _, kind in names],
        )

    @property
    def num_samples(self) -> int:
        return int(self.rows[-1]) + 1 if len(self.rows) else 0

    @property
    def num_bytes(self) -> int:
        return self.rows.nbytes * 5

    def choose(self, rows: npt.NDArray[np.int64], columns: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the positions of the members `columns` of the samples at `rows`."""
        # The members of a sample are consecutive, in the order of the rows.
        first, last = (np.searchsorted(self.rows, rows, side=side) for side in ("left", "right"))
        counts = last - first
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        members = np.repeat(first, counts) + offsets
        codes = [self.columns.index(column) for column in columns]
        return np.asarray(members[np.isin(self.codes[members], codes)], dtype=np.int64)


_indexes: BoundedCache[_Members] = BoundedCache(max_bytes=256 << 20)


def _members_of(shard: Shard) -> _Members:
    def load() -> _Members:
        if shard.members_uri is None:
            stored = ObjectInfo(shard.uri, shard.num_bytes, shard.etag)
            return _Members.of(_member_table(stored))
        frame, _ = frames.read_frame(shard.members_uri, schema=dict(schema.MEMBERS))
        return _Members.of(frames.to_arrow(frame))

    return _indexes.get_or_load(
        (shard.uri, shard.etag), load, size_of=lambda index: index.num_bytes
    )


def _member_table(stored: ObjectInfo) -> pa.Table:
    """Return the member index of a tar file (`schema.MEMBERS`)."""
    rows: list[dict[str, Any]] = []
    row, last_key = -1, None
    columns: set[str] = set()
    for member in _walk(stored):
        parts = _split(member.name)
        if parts is None:
            continue
        if not member.isreg():
            raise InputError(
                f"{stored.url}: {member.name} is a link or a device: expected only regular files."
                " Create the tar file again with `tar --dereference --hard-dereference`"
            )
        key, ext = parts
        if key != last_key:
            row, last_key, columns = row + 1, key, set()
        column = _column_and_kind(ext)[0]
        if column in columns:
            raise InputError(f"{stored.url}: sample {key!r} has a duplicate column {column!r}")
        columns.add(column)
        facts = {"offset": member.offset_data, "num_bytes": member.size}
        rows.append({schema.ROW: row, "key": key, "ext": ext, **facts})
    return pa.Table.from_pylist(rows, schema=frames.arrow_schema(dict(schema.MEMBERS)))


def _walk(stored: ObjectInfo) -> Iterator[tarfile.TarInfo]:
    """Yield the members except folders. Raises `InputError` if the file is truncated or damaged."""
    url = stored.url
    file = io.BufferedReader(_ObjectFile(stored), _WINDOW_BYTES)
    try:
        with tarfile.TarFile(fileobj=file, errors="replace") as archive:
            while (member := archive.next()) is not None:
                # Drop the headers that tarfile keeps; typeshed lacks this attribute.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.issparse() or not 0 <= member.size <= _MAX_MEMBER_BYTES:
                    raise InputError(f"{url}: {member.name} is sparse or larger than 4 GiB")
                if not member.isdir():
                    yield member
            file.seek(archive.offset)
            end = file.read(_BLOCK)
    except InputError:
        raise
    # A damaged header may contain any numbers.
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise InputError(
            f"{url} is not a complete tar file: {error}. It may be truncated; copy it again"
        ) from error
    # tarfile accepts a file that ends between two members or within a header.
    if end != bytes(_BLOCK):
        raise InputError(
            f"{url} is not a complete tar file: expected its end mark at byte {archive.offset}."
            " It may be truncated; copy it again"
        )


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


def _member_name(key: str, column: str, kind: str, path: Path) -> str:
    """Join what `_split` and `_column_and_kind` split. Raises `InputError` if they would not."""
    name = f"{key}.{column}.{kind}"
    is_reversible = _split(name) == (key, f"{column}.{kind}") and column.isprintable()
    if not column or not is_reversible:
        raise InputError(
            f"cannot write {path}: invalid column name {column!r} in a tar file. Rename it without"
            " '/' and unprintable characters"
        )
    return name


def _split(name: str) -> tuple[str, str] | None:
    """Return key and extension: the parts before and after the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    # As in the webdataset library, names without extension and `__meta__` are not samples.
    return (folder + slash + stem, ext) if stem and ext and not name.startswith("__") else None


def _column_and_kind(ext: str) -> tuple[str, str]:
    column, _, kind = ext.rpartition(".")
    return column or kind, kind.lower()


def _decode(data: bytes, kind: str) -> Any:
    try:
        return _DECODERS[kind](data) if kind in _DECODERS else data
    except (ValueError, RecursionError):
        return data


def _encode(value: Any, what: str) -> tuple[str, bytes]:
    """Return type and bytes of a value (a `bool` is JSON: as `cls` it would become a number)."""
    if isinstance(value, bytes | bytearray | memoryview):
        return _detect_kind(bytes(value)), bytes(value)
    try:
        if isinstance(value, str):
            return "txt", value.encode()
        if type(value) is int:
            return "cls", str(value).encode()
        return "json", json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot write {what}: {error}") from error


def _detect_kind(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "bin")
