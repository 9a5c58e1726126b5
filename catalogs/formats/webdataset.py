"""WebDataset shards: tar files in which consecutive members with one key are one sample.

Members are read by offset, through the member index that ingestion wrote; a compressed tar file is
read as a whole. `catalogs/tars/` has the rules for samples and columns. Members are decoded by an
allow-list of types, never by pickle: cls and index → int, txt → str, json → object, everything else
stays bytes. A member that cannot be decoded also stays bytes, so that the task can give that sample
a status.
"""

import json
from collections.abc import Callable, Iterable, Sequence
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
    check_rows,
    coalesce_bounded,
    read_method,
)
from catalogs.shard_format import Inspection, Reading, Sample, Shard
from catalogs.storage.objects import ObjectInfo
from catalogs.tables import frames
from catalogs.tables.byte_cache import BoundedCache
from catalogs.tars import compressed
from catalogs.tars.headers import BLOCK, member_table, split_name
from catalogs.tars.members import KEY, Alternative, Chosen, Members

_DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "cls": int,
    "index": int,
    "txt": lambda data: data.decode("utf-8"),
    "json": json.loads,
}
_MAGIC: Final = {b"\x89PNG\r\n": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif"}

# Types of bytes, and columns that are named as the library names members of such types.
_OF_BYTES: Final = frozenset({*_MAGIC.values(), "webp", "bin"})
_FILE_TYPES: Final = frozenset(
    {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jxl"}
    | {"npy", "npz", "pth", "mp3", "wav", "flac", "ogg", "mp4", "webm", "pdf"}
)


class Webdataset:
    """The WebDataset shard format."""

    suffixes: tuple[str, ...] = (".tar", *compressed.SUFFIXES)
    keeps_members = True

    def inspect(self, url: str) -> Inspection:
        """Read all headers; skip the data of large members."""
        stored = storage.info(url)
        if stored is None:
            raise MissingError(f"{url} was not found: expected a tar file")
        table = member_table(stored)
        index = Members.of(table)
        return Inspection(index.num_samples, index.unique_columns, table)

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Read the members `columns` of the samples at `rows`; None if a sample lacks one.

        The column `__key__` has the keys of the samples.
        """
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        names, columns = columns, [name for name in columns if name != KEY]
        index, resolved, chosen = _choose(shard, row_array, columns)
        plan = _plan(shard, index, chosen, num_samples=len(row_array))
        fetched = _fetch(shard, plan)
        values: dict[str, list[Any]] = {name: [None] * len(row_array) for name in names}
        if KEY in names:
            values[KEY] = index.keys.take(row_array).to_pylist()
        members = zip(
            np.searchsorted(row_array, index.rows[chosen.members]).tolist(),
            chosen.columns.tolist(),
            chosen.alternatives.tolist(),
            index.offsets[chosen.members].tolist(),
            index.sizes[chosen.members].tolist(),
            index.codes[chosen.members].tolist(),
            strict=True,
        )
        for position, column, alternative, offset, size, code in members:
            value = _decode(bytes(fetched.cut(offset, size)), index.kinds[code])
            value = _value_at(value, resolved[column][alternative])
            values[columns[column]][position] = value
        return Reading(
            values, len(row_array), plan.num_bytes, plan.bytes_selected, len(plan.ranges)
        )

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """Plan the cheapest requests for the members `columns`."""
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        columns = [name for name in columns if name != KEY]
        index, _, chosen = _choose(shard, row_array, columns)
        return _plan(shard, index, chosen, num_samples=len(row_array))

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """Raise `InputError`: samples of a tar file are read individually."""
        raise InputError(
            f"{shard.uri} is a tar file and has no row groups: choose rows per block, such as 256"
        )

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write columns in the order of their names, times and owners as 0.

        Keys are those in the column `__key__`, else ordinals.
        """
        from webdataset.writer import TarWriter  # here, because it imports torch

        ordinal, keys = -1, set[str]()
        with (
            path.open("wb") as file,
            # Encoded here: nothing is pickled.
            TarWriter(
                file, encoder=False, keep_meta=True, mtime=0, user="", group="", compress=False
            ) as archive,
        ):
            for ordinal, sample in enumerate(samples):
                key = _key_of(sample, ordinal, keys, path=path)
                columns = {name: value for name, value in sample.items() if name != KEY}
                if not columns:
                    raise InputError(f"cannot write {path}: sample {ordinal} has no columns")
                archive.write(encode_members(columns, key=key, path=path))
        if ordinal < 0:
            path.unlink()
            raise InputError(f"no samples to write to {path}: expected at least one")


def _key_of(sample: Sample, ordinal: int, keys: set[str], *, path: Path) -> str:
    """Return the key of a sample that is not among the earlier `keys`, and add it to them."""
    key = sample.get(KEY)
    if key is None:
        key = f"{ordinal:06d}"
    base = str(key).rpartition("/")[2]
    if not isinstance(key, str) or not base or "." in base or not key.isprintable():
        raise InputError(
            f"cannot write {path}: sample {ordinal} has the {KEY} {key!r}, expected a name without"
            f" dots, as the name of a member ends there. Drop the column {KEY}, or rename it"
        )
    if key in keys:  # of another file
        key = f"{key}-{ordinal:06d}"
    keys.add(key)
    return key


def encode_members(sample: Sample, *, key: str, path: Path) -> dict[str, Any]:
    """Return the bytes of a sample's columns by extension, and its `__key__`.

    Raises:
        InputError: a value or the name of a column cannot be in a tar file; names `path`.
    """
    members: dict[str, Any] = {"__key__": key}
    for column, value in sample.items():
        kind, data = _encode(value, f"{path}: {column!r} of {key}")
        members[_extension(key, column, kind, path)] = data
    return members


def members_of_rows(
    shard: Shard, *, rows: Sequence[int], columns: Sequence[str] | None = None
) -> list[dict[str, bytes]]:
    """Return members of the samples at `rows` as they are stored, by extension.

    Those of `columns`; default: all. Raises what `Webdataset.read` raises.
    """
    row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
    names = _members_of(shard).unique_columns if columns is None else columns
    index, _, chosen = _choose(shard, row_array, names)
    fetched = _fetch(shard, _plan(shard, index, chosen, num_samples=len(row_array)))
    members: list[dict[str, bytes]] = [{} for _ in row_array]
    positions = np.searchsorted(row_array, index.rows[chosen.members]).tolist()
    for position, member in zip(positions, chosen.members.tolist(), strict=True):
        data = bytes(fetched.cut(int(index.offsets[member]), int(index.sizes[member])))
        members[position][index.exts[index.codes[member]]] = data
    return members


def remember_members(shard: Shard, members: pa.Table) -> None:
    """Keep the member index of a shard that was just inspected, for reading it soon."""
    index = Members.of(members)
    _indexes.put((shard.uri, shard.etag), index, num_bytes=index.num_bytes)


def columns_of_bytes(shard: Shard, columns: Sequence[str]) -> set[str]:
    """Return those of `columns` that are not decoded: their values are bytes, or None."""
    index = _members_of(shard)
    alternatives = zip(columns, index.resolve(columns, url=shard.uri), strict=True)
    return {
        name
        for name, each in alternatives
        if not any(index.kinds[ext] in _DECODERS for one in each for ext in one.exts)
    }


def _choose(
    shard: Shard, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> tuple[Members, list[list[Alternative]], Chosen]:
    """Return the member index, where the columns are read from, and the members to read."""
    index = _members_of(shard)
    resolved = index.resolve(columns, url=shard.uri)
    return index, resolved, index.choose(rows, resolved)


def _plan(shard: Shard, index: Members, chosen: Chosen, *, num_samples: int) -> ReadPlan:
    # Two columns may be values inside of one JSON member.
    members = np.unique(chosen.members)
    offsets, sizes = index.offsets[members], index.sizes[members]
    if compressed.is_compressed(shard.uri):
        share = sizes.sum() / max(int(index.sizes.sum()), 1)
        return ReadPlan(
            "whole compressed file",
            [(0, shard.num_bytes)] if len(members) else [],
            bytes_selected=round(shard.num_bytes * share),
            decoded_bytes=int(sizes.sum()),
        )
    ranges = coalesce_bounded(
        list(zip(offsets.tolist(), sizes.tolist(), strict=True)),
        request_bytes=storage.request_bytes(shard.uri),
        num_samples=num_samples,
    )
    padded = -(-sizes // BLOCK) * BLOCK
    return ReadPlan(
        read_method(ranges, shard_bytes=shard.num_bytes, otherwise="ranges"),
        ranges,
        bytes_selected=int(padded.sum()) + BLOCK * len(members),
        decoded_bytes=int(sizes.sum()),
    )


def _fetch(shard: Shard, plan: ReadPlan) -> FetchedRanges:
    if compressed.is_compressed(shard.uri) and plan.ranges:
        data = compressed.read_decompressed(ObjectInfo(shard.uri, shard.num_bytes, shard.etag))
        return FetchedRanges([(0, len(data))], [data])
    ranges = plan.ranges
    return FetchedRanges(ranges, storage.read_ranges(shard.uri, ranges, etag=shard.etag))


def _value_at(value: Any, alternative: Alternative) -> Any:
    """Return the value inside of a JSON object; None if there is none, damaged JSON as it is."""
    for name in alternative.path:
        if isinstance(value, bytes):
            return value
        value = value.get(name) if isinstance(value, dict) else None
    return value


_indexes: BoundedCache[Members] = BoundedCache(max_bytes=256 << 20)


def _members_of(shard: Shard) -> Members:
    def load() -> Members:
        if shard.members_uri is None:
            stored = ObjectInfo(shard.uri, shard.num_bytes, shard.etag)
            return Members.of(member_table(stored))
        frame, _ = frames.read_frame(shard.members_uri, schema=dict(schema.MEMBERS))
        return Members.of(frames.to_arrow(frame))

    return _indexes.get_or_load(
        (shard.uri, shard.etag), load, size_of=lambda index: index.num_bytes
    )


def _extension(key: str, column: str, kind: str, path: Path) -> str:
    """Return the extension of a column. Raises `InputError` if it would not be read as that."""
    is_file_type = column == kind or (kind in _OF_BYTES and column in _FILE_TYPES)
    ext = column if is_file_type else f"{column}.{kind}"
    is_reversible = split_name(f"{key}.{ext}") == (key, ext) and column.isprintable()
    if not column or not is_reversible:
        raise InputError(
            f"cannot write {path}: invalid column name {column!r} in a tar file. Rename it without"
            " '/', capital letters and unprintable characters"
        )
    return ext


def _decode(data: bytes, kind: str) -> Any:
    try:
        return _DECODERS[kind](data) if kind in _DECODERS else data
    except (ValueError, RecursionError):
        return data


def _encode(value: Any, what: str) -> tuple[str, bytes]:
    """Return type and bytes of a value (a `bool` is JSON: as `cls` it would become a number)."""
    if isinstance(value, bytes | bytearray | memoryview):
        return kind_of_bytes(bytes(value)), bytes(value)
    try:
        if isinstance(value, str):
            return "txt", value.encode()
        if type(value) is int:
            return "cls", str(value).encode()
        return "json", json.dumps(value, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot write {what}: {error}") from error


def kind_of_bytes(data: bytes) -> str:
    """Return the type of an encoded image by its first bytes; `bin` for everything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "bin")
