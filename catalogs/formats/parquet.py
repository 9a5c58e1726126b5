"""Parquet shards: one row, one sample.

Samples ↔ Parquet. Only the row groups and columns that hold the wanted rows are read.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.read_plan import (
    Extent,
    FetchedRanges,
    ReadPlan,
    check_columns,
    check_rows,
    coalesce_bounded,
    read_method,
)
from catalogs.shard_format import Inspection, Reading, Sample, Shard
from catalogs.tables import parquet_file, plain_values
from catalogs.tables.byte_cache import BoundedCache
from catalogs.tables.parquet_file import Footer

# A shard that costs no more than so many requests is read whole rather than footer first.
_SMALL_SHARD_REQUESTS = 4
# A row group is written when it has so many samples or, about, bytes.
_GROUP_SAMPLES = 1024
_GROUP_BYTES = 8 << 20

# What pyarrow raises for values that it cannot make a column of.
_REFUSED: Final = (pa.ArrowException, TypeError, OverflowError)

# What was read for a footer is kept of shards up to this size, until their samples are wanted: of
# a larger one it is next to nothing.
_KEPT_SHARD_BYTES = 32 * parquet_file.TAIL_BYTES

_footers: BoundedCache[Footer] = BoundedCache(max_bytes=64 << 20)
# The last bytes of shards, or all of them.
_tails: BoundedCache[bytes] = BoundedCache(max_bytes=32 << 20)


class Parquet:
    """The Parquet shard format."""

    suffixes: tuple[str, ...] = (".parquet",)
    keeps_members = False

    def inspect(self, url: str) -> Inspection:
        """Sample count and columns, from the footer."""
        found = storage.info(url)
        if found is None:
            raise MissingError(f"{url} was not found: expected a Parquet file")
        footer = parquet_file.load_footer(url, num_bytes=found.num_bytes, etag=found.etag)
        return Inspection(num_samples=footer.num_rows, columns=tuple(footer.schema.names))

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """The samples at `rows`, from the row groups that hold them."""
        wanted = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        if len(wanted) == 0:
            return Reading({}, 0, bytes_read=0, bytes_selected=0, num_requests=0)
        footer = _footer(shard)
        tail = _tails.pop(_key(shard)) or b""
        plan = _plan(shard, footer, rows=wanted, columns=columns)
        requests = _lacking(shard, plan.ranges, len(tail))
        found, firsts = np.unique(footer.groups_of(wanted), return_index=True)
        groups = found.tolist()
        fetched = _fetched(shard, requests, tail if requests != plan.ranges else b"")
        values: dict[str, list[Any]] = {name: [] for name in columns}
        tables = parquet_file.decode(
            shard.uri, fetched, footer=footer, groups=groups, columns=columns
        )
        rows_of = np.split(wanted, firsts[1:])
        for group, chosen, table in zip(groups, rows_of, tables, strict=True):
            some = _values(table, chosen - footer.starts[group], url=shard.uri)
            for name in columns:
                values[name] += some[name]
        num_bytes = sum(size for _, size in requests)
        return Reading(values, len(wanted), num_bytes, plan.bytes_selected, len(requests))

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """The row groups that hold `rows`. `decoded_bytes` are the samples' share of them, and the
        largest, which is held whole: counted before compression, but encoded, so that a value that
        a dictionary repeats counts once.
        """
        wanted = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        return _plan(shard, _cached_footer(shard), rows=wanted, columns=columns)

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """From the footer; groups without rows are left out."""
        starts = np.unique(_cached_footer(shard).starts)
        return [int(first) for first in starts if first < shard.num_samples]

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Columns in the order of their names. Equal samples make equal bytes.

        Raises:
            InputError: there are no samples, or a column changes its type on the way.
        """
        schema, writer = pa.schema([]), None
        try:
            for group in _groups(samples):
                wider = _schema(group, path, known=schema)
                if writer is None:
                    writer = _opened(path, wider)
                elif wider != schema:
                    writer.close()
                    writer = _rewritten(path, wider)
                schema = wider
                _append(writer, group, path)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"no samples to write to {path}: expected at least one")


def _plan(
    shard: Shard, footer: Footer, *, rows: npt.NDArray[np.int64], columns: Sequence[str]
) -> ReadPlan:
    check_columns(columns, known=footer.schema.names, url=shard.uri)
    found, counts = np.unique(footer.groups_of(rows), return_counts=True)
    groups = found.tolist()
    share = counts / np.diff(footer.starts)[found]
    packed = np.array([footer.group_bytes(group, columns) for group in groups])
    uncompressed = np.array([footer.uncompressed_bytes(group, columns) for group in groups])
    ranges = parquet_file.extend_to_start(
        coalesce_bounded(
            footer.extents(groups, columns),
            request_bytes=storage.request_bytes(shard.uri),
            num_samples=int(np.diff(footer.starts)[found].sum()),
        )
    )
    return ReadPlan(
        read_method(ranges, shard_bytes=shard.num_bytes, otherwise="row groups"),
        ranges,
        bytes_selected=round(float((packed * share).sum())),
        decoded_bytes=round(float((uncompressed * share).sum() + uncompressed.max(initial=0))),
    )


def _groups(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    num_bytes = 0
    for sample in samples:
        group.append(sample)
        num_bytes += sum(len(value) for value in sample.values() if isinstance(value, bytes | str))
        if len(group) == _GROUP_SAMPLES or num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _lacking(shard: Shard, ranges: list[Extent], num_there: int) -> list[Extent]:
    """`ranges` without the last bytes of the shard, which are there: none are read twice. If it is
    all there, then that was the request.
    """
    end = shard.num_bytes - num_there
    if end == 0:
        return [(0, shard.num_bytes)]
    return [(first, min(size, end - first)) for first, size in ranges if first < end]


def _fetched(shard: Shard, requests: list[Extent], tail: bytes) -> FetchedRanges:
    """What is requested, and the tail; as one piece where they meet."""
    if len(tail) == shard.num_bytes:
        return FetchedRanges(requests, [tail])
    data = storage.read_ranges(shard.uri, requests, etag=shard.etag)
    end = shard.num_bytes - len(tail)
    if not tail:
        return FetchedRanges(requests, data)
    if not requests or sum(requests[-1]) < end:
        return FetchedRanges([*requests, (end, len(tail))], [*data, tail])
    first, size = requests[-1]
    return FetchedRanges([*requests[:-1], (first, size + len(tail))], [*data[:-1], data[-1] + tail])


def _footer(shard: Shard) -> Footer:
    """The footer; of a small shard it is read with all the rest."""
    small = _SMALL_SHARD_REQUESTS * storage.request_bytes(shard.uri)
    if shard.num_bytes > small or _footers.get(_key(shard)) is not None:
        return _cached_footer(shard)
    (data,) = storage.read_ranges(shard.uri, [(0, shard.num_bytes)], etag=shard.etag)
    footer = _parsed(shard, data)
    return _footers.put(_key(shard), footer, num_bytes=footer.num_bytes)


def _cached_footer(shard: Shard) -> Footer:
    def load() -> Footer:
        url, num_bytes = shard.uri, shard.num_bytes
        return _parsed(shard, parquet_file.read_tail(url, num_bytes=num_bytes, etag=shard.etag))

    return _footers.get_or_load(_key(shard), load, size_of=lambda footer: footer.num_bytes)


def _parsed(shard: Shard, tail: bytes) -> Footer:
    if len(tail) == shard.num_bytes or shard.num_bytes <= _KEPT_SHARD_BYTES:
        _tails.put(_key(shard), tail, num_bytes=len(tail))
    return parquet_file.parse_footer(tail, url=shard.uri, num_bytes=shard.num_bytes)


def _key(shard: Shard) -> tuple[str, str]:
    return shard.uri, shard.etag


def _values(table: pa.Table, positions: npt.NDArray[np.int64], *, url: str) -> dict[str, list[Any]]:
    try:
        return plain_values.values_of(plain_values.take_rows(table, positions))
    except pa.ArrowException as error:
        kinds = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise InputError(
            f"{url}: columns of these types cannot be read ({kinds}): {error}"
        ) from error


def _schema(samples: Sequence[Sample], path: Path, *, known: pa.Schema) -> pa.Schema:
    """`known`, with what these samples have and the earlier ones had not.

    What would not come back as it is (2.5 in a column of integers) is refused.
    """
    names = {name for sample in samples for name in sample}
    try:
        found = pa.table({name: [sample.get(name) for sample in samples] for name in names}).schema
    except _REFUSED as error:
        raise InputError(f"cannot write {path}: {error}. Every column needs one type") from error
    if not names:
        raise InputError(f"cannot write {path}: {len(samples)} samples without any column")
    kinds = {field.name: field.type for field in known}
    for field in found:
        earlier = kinds.get(field.name, pa.null())
        wider = _wider(earlier, field.type)
        if wider is None:
            raise InputError(
                f"cannot write {path}: column {field.name!r} began as {earlier} and goes on as"
                f" {field.type}. Every column needs one type"
            )
        kinds[field.name] = wider
    return pa.schema(sorted(kinds.items()))


def _opened(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Encoded images do not repeat: a dictionary of them costs half again the time to decode, and
    # their smallest and largest would stand in the footer.
    plain = [field.name for field in schema if not pa.types.is_binary(field.type)]
    try:
        return pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
        )
    except pa.ArrowException as error:
        # Parquet has no objects without fields.
        raise InputError(f"cannot write {path}: {error}") from error


def _append(writer: pq.ParquetWriter, samples: Sequence[Sample], path: Path) -> None:
    columns = {name: [sample.get(name) for sample in samples] for name in writer.schema.names}
    for field in writer.schema:
        # pyarrow takes True for the number 1.0.
        if any(_has_bool(value, field.type) for value in columns[field.name]):
            raise InputError(
                f"cannot write {path}: column {field.name!r} has both numbers and true or false."
                " Every column needs one type"
            )
    try:
        writer.write_table(pa.table(columns, schema=writer.schema))
    except _REFUSED as error:
        raise InputError(f"cannot write {path}: {error}. Every column needs one type") from error


def _rewritten(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer that goes on with the file at `path`, in a schema that is wider than the file's."""
    writer = _opened(Path(f"{path}.wider"), schema)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field.name, pa.nulls(table.num_rows))
            writer.write_table(table.select(schema.names).cast(schema))
    Path(f"{path}.wider").replace(path)
    return writer


def _wider(known: pa.DataType, found: pa.DataType) -> pa.DataType | None:
    """The type that holds values of both as they are; None if there is none.

    What was null (or empty, or absent) so far takes any type.
    """
    if pa.types.is_null(found) or found == known:
        return known
    if pa.types.is_null(known):
        return found
    if pa.types.is_list(found) and pa.types.is_list(known):
        item = _wider(known.value_type, found.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(found) and pa.types.is_struct(known):
        fields = {field.name: field.type for field in known}
        for field in found:
            fields[field.name] = _wider(fields.get(field.name, pa.null()), field.type)
        lacking = any(kind is None for kind in fields.values())
        return None if lacking else pa.struct(list(fields.items()))
    # pyarrow refuses integers that a float cannot hold.
    fits = pa.types.is_integer(found) and pa.types.is_floating(known)
    return known if fits else None


def _has_bool(value: Any, kind: pa.DataType) -> bool:
    """Whether a bool stands where `kind` has a number."""
    if value is None:
        return False
    if pa.types.is_list(kind):
        if _is_number(kind.value_type):
            return bool in set(map(type, value))
        return any(_has_bool(item, kind.value_type) for item in value)
    if pa.types.is_struct(kind):
        return any(_has_bool(value.get(field.name), field.type) for field in kind)
    return _is_number(kind) and isinstance(value, bool)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
