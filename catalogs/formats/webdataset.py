"""WebDataset shards: a tar whose consecutive members with one key are one sample.

Samples ↔ tar members, found by offset through the member index that ingesting wrote. Not here:
how the bytes are fetched (`catalogs/storage/`).

`000012.image.png` belongs to the sample with key `000012`; its column is `image`, its type
`png`. With a single extension (`a.cls`) that is both. Members are decoded by an allow-list of
types, never by pickle: cls and index → int, txt → str, json → object, anything else stays
bytes. So does a member that cannot be decoded: its task can give that one sample a status.
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
# Members larger than this are skipped while looking through a tar, smaller ones are read over.
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
        """Walk all headers, skipping the data of large members."""
        found = storage.info(url)
        if found is None:
            raise MissingError(f"{url} was not found: expected a tar file")
        table = _member_table(found)
        index = _Members.of(table)
        return Inspection(index.num_samples, tuple(index.columns), table)

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """The members of `columns` of the samples at `rows`; None where a sample lacks one."""
        wanted = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        index, chosen = _chosen(shard, wanted, columns)
        plan = _plan(shard, index, chosen, num_samples=len(wanted))
        fetched = FetchedRanges(
            plan.ranges, storage.read_ranges(shard.uri, plan.ranges, etag=shard.etag)
        )
        values: dict[str, list[Any]] = {name: [None] * len(wanted) for name in columns}
        where = zip(
            np.searchsorted(wanted, index.rows[chosen]).tolist(),
            index.codes[chosen].tolist(),
            index.offsets[chosen].tolist(),
            index.sizes[chosen].tolist(),
            chosen.tolist(),
            strict=True,
        )
        for place, code, offset, size, member in where:
            value = _decoded(bytes(fetched.cut(offset, size)), index.kinds[member])
            values[index.columns[code]][place] = value
        return Reading(
            values, len(wanted), fetched.num_bytes, plan.bytes_selected, len(plan.ranges)
        )

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """The members of `columns`, in as few requests as pay."""
        wanted = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        index, chosen = _chosen(shard, wanted, columns)
        return _plan(shard, index, chosen, num_samples=len(wanted))

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """Refused: any sample of a tar can be read by itself."""
        raise InputError(
            f"{shard.uri} is a tar and has no row groups: choose rows per block (`granularity: "
            "256`) or whole shards (`granularity: shard`)"
        )

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Keys are ordinals, columns stand in the order of their names, times and owners are 0."""
        ordinal = -1
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for ordinal, sample in enumerate(samples):
                if not sample:
                    raise InputError(f"cannot write {path}: sample {ordinal} has no columns")
                for column in sorted(sample):
                    kind, data = _encoded(sample[column], f"{path}: {column!r} of {ordinal}")
                    member = tarfile.TarInfo(_member_name(f"{ordinal:06d}", column, kind, path))
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        if ordinal < 0:
            path.unlink()
            raise InputError(f"no samples to write to {path}: expected at least one")


def _chosen(
    shard: Shard, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> tuple["_Members", npt.NDArray[np.int64]]:
    """The member index, and which of the members are wanted."""
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
    """A member index in memory, in the order of the tar.

    `rows` int64[members], `offsets` and `sizes` int64[members] of the data, `codes` int64[members]
    into `columns`, `kinds` the type of each member.
    """

    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    columns: list[str]
    kinds: list[str]

    @classmethod
    def of(cls, table: pa.Table) -> "_Members":
        # Each extension once, so that equal kinds are one string in memory.
        exts = table["ext"].combine_chunks().dictionary_encode()
        known = [_column_and_kind(ext) for ext in exts.dictionary.to_pylist()]
        names = [known[code] for code in exts.indices.to_pylist()]
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

    def choose(
        self, wanted: npt.NDArray[np.int64], columns: Sequence[str]
    ) -> npt.NDArray[np.int64]:
        """The members that are `columns` of the samples `wanted`."""
        # The members of a sample stand together, in the order of the rows.
        first, last = (np.searchsorted(self.rows, wanted, side=side) for side in ("left", "right"))
        counts = last - first
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        members = np.repeat(first, counts) + place
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
    """The member index of a tar (`schema.MEMBERS`)."""
    rows: list[dict[str, Any]] = []
    row, last_key = -1, None
    columns: set[str] = set()
    for member in _walk(stored):
        split = _split(member.name)
        if split is None:
            continue
        if not member.isreg():
            raise InputError(
                f"{stored.url}: {member.name} is a link or a device: expected plain files only."
                " Pack the tar again with `tar --dereference --hard-dereference`"
            )
        key, ext = split
        if key != last_key:
            row, last_key, columns = row + 1, key, set()
        column = _column_and_kind(ext)[0]
        if column in columns:
            raise InputError(f"{stored.url}: sample {key!r} has the column {column!r} twice")
        columns.add(column)
        facts = {"offset": member.offset_data, "num_bytes": member.size}
        rows.append({schema.ROW: row, "key": key, "ext": ext, **facts})
    return pa.Table.from_pylist(rows, schema=frames.arrow_schema(dict(schema.MEMBERS)))


def _walk(stored: ObjectInfo) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, less folders. Raises `InputError` when it is cut off or damaged."""
    url = stored.url
    file = io.BufferedReader(_ObjectFile(stored), _WINDOW_BYTES)
    try:
        with tarfile.TarFile(fileobj=file, errors="replace") as archive:
            while (member := archive.next()) is not None:
                # tarfile keeps the header of every member; typeshed leaves this list out.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.issparse() or not 0 <= member.size <= _MAX_MEMBER_BYTES:
                    raise InputError(f"{url}: {member.name} is sparse or larger than 4 GiB")
                if not member.isdir():
                    yield member
            file.seek(archive.offset)
            end = file.read(_BLOCK)
    except InputError:
        raise
    # A damaged header also fails as whatever its numbers are taken for.
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise InputError(
            f"{url} is no whole tar: {error}. It may be cut off; copy it again"
        ) from error
    # tarfile takes a tar that ends between two members, or in a torn header, for a whole one.
    if end != bytes(_BLOCK):
        raise InputError(
            f"{url} is no whole tar: expected its end mark at byte {archive.offset}. It may be cut"
            " off; copy it again"
        )


class _ObjectFile(io.RawIOBase):
    """A stored object as a seekable file."""

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
            wanted = [(self._position, size)]
            found = storage.read_ranges(self._stored.url, wanted, etag=self._stored.etag)
            buffer[:size] = found[0]
            self._position += size
        return size


def _member_name(key: str, column: str, kind: str, path: Path) -> str:
    """What `_split` and `_column_and_kind` take apart again; `InputError` if they would not."""
    name = f"{key}.{column}.{kind}"
    comes_back = _split(name) == (key, f"{column}.{kind}") and column.isprintable()
    if not column or not comes_back:
        raise InputError(
            f"cannot write {path}: a tar cannot hold a column {column!r}. Rename it: without '/'"
            " and characters that cannot be printed"
        )
    return name


def _split(name: str) -> tuple[str, str] | None:
    """Key and extension: what stands before and after the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    stem, _, ext = base.partition(".")
    # As the webdataset library does: no extension or `__meta__`, no member of a sample.
    return (folder + slash + stem, ext) if stem and ext and not name.startswith("__") else None


def _column_and_kind(ext: str) -> tuple[str, str]:
    column, _, kind = ext.rpartition(".")
    return column or kind, kind.lower()


def _decoded(data: bytes, kind: str) -> Any:
    try:
        return _DECODERS[kind](data) if kind in _DECODERS else data
    except (ValueError, RecursionError):
        return data


def _encoded(value: Any, what: str) -> tuple[str, bytes]:
    """The type and the bytes of a value (a `bool` is JSON: as `cls` it would become a number)."""
    if isinstance(value, bytes | bytearray | memoryview):
        return _sniffed(bytes(value)), bytes(value)
    try:
        if isinstance(value, str):
            return "txt", value.encode()
        if type(value) is int:
            return "cls", str(value).encode()
        return "json", json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot write {what}: {error}") from error


def _sniffed(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "bin")
