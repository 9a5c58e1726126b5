"""Parquet shards: one sample per row.

Only the row groups and columns that hold the requested rows are read.
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
from catalogs.tables import footer_check, parquet_file, plain_values
from catalogs.tables.byte_cache import BoundedCache
from catalogs.tables.parquet_file import Footer

# A shard that costs no more than this many requests is read whole instead of footer first.
_SMALL_SHARD_REQUESTS = 4
# A row group is written when it has this many samples or, approximately, bytes.
_GROUP_SAMPLES = 1024
_GROUP_BYTES = 8 << 20

# Errors of pyarrow for values that do not form a column.
_TYPE_ERRORS: Final = (pa.ArrowException, TypeError, OverflowError)

# The bytes read for a footer are kept until samples are read, for shards up to this size; of a
# larger shard they are a negligible part.
_CACHED_SHARD_BYTES = 32 * parquet_file.TAIL_BYTES

_footers: BoundedCache[Footer] = BoundedCache(max_bytes=64 << 20)
# The last bytes of shards, or all bytes.
_tails: BoundedCache[bytes] = BoundedCache(max_bytes=32 << 20)


class Parquet:
    """The Parquet shard format."""

    suffixes: tuple[str, ...] = (".parquet",)
    keeps_members = False

    def inspect(self, url: str) -> Inspection:
        """Sample count and columns, from the footer."""
        stored = storage.info(url)
        if stored is None:
            raise MissingError(f"{url} was not found: expected a Parquet file")
        tail = parquet_file.read_tail(url, num_bytes=stored.num_bytes, etag=stored.etag)
        footer_check.check_footer(tail, url=url)
        footer = parquet_file.parse_footer(tail, url=url, num_bytes=stored.num_bytes)
        return Inspection(num_samples=footer.num_rows, columns=tuple(footer.schema.names))

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Read the samples at `rows` from the row groups that hold them."""
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        if len(row_array) == 0:
            return Reading({}, 0, bytes_read=0, bytes_selected=0, num_requests=0)
        footer = _footer(shard)
        tail = _tails.pop(_key(shard)) or b""
        plan = _plan(shard, footer, rows=row_array, columns=columns)
        requests = _without_tail(shard, plan.ranges, len(tail))
        unique_groups, firsts = np.unique(footer.groups_of(row_array), return_index=True)
        groups = unique_groups.tolist()
        fetched = _fetch(shard, requests, tail if requests != plan.ranges else b"")
        values: dict[str, list[Any]] = {name: [] for name in columns}
        tables = parquet_file.decode(
            shard.uri, fetched, footer=footer, groups=groups, columns=columns
        )
        rows_of = np.split(row_array, firsts[1:])
        for group, group_rows, table in zip(groups, rows_of, tables, strict=True):
            group_values = _values(table, group_rows - footer.starts[group], url=shard.uri)
            for name in columns:
                values[name] += group_values[name]
        num_bytes = sum(size for _, size in requests)
        return Reading(values, len(row_array), num_bytes, plan.bytes_selected, len(requests))

    def plan(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
        """Plan to read the row groups that hold `rows`.

        `decoded_bytes` is the samples' share of these row groups plus the largest of them, which is
        held whole. Sizes are uncompressed but encoded: a value that a dictionary repeats counts
        once.
        """
        row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        return _plan(shard, _cached_footer(shard), rows=row_array, columns=columns)

    def row_groups(self, shard: Shard) -> Sequence[int]:
        """Return the first rows from the footer; row groups without rows are skipped."""
        starts = np.unique(_cached_footer(shard).starts)
        return [int(first) for first in starts if first < shard.num_samples]

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write columns in the order of their names. Equal samples give equal bytes.

        Raises:
            InputError: `samples` is empty, or the values of a column have different types.
        """
        schema, writer = pa.schema([]), None
        try:
            for group in _groups(samples):
                wider = _extend_schema(group, path, known=schema)
                if writer is None:
                    writer = _open_writer(path, wider)
                elif wider != schema:
                    writer.close()
                    writer = _rewrite(path, wider)
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
    unique_groups, counts = np.unique(footer.groups_of(rows), return_counts=True)
    groups = unique_groups.tolist()
    share = counts / np.diff(footer.starts)[unique_groups]
    compressed = np.array([footer.group_bytes(group, columns) for group in groups])
    uncompressed = np.array([footer.uncompressed_bytes(group, columns) for group in groups])
    ranges = parquet_file.extend_to_start(
        coalesce_bounded(
            footer.extents(groups, columns),
            request_bytes=storage.request_bytes(shard.uri),
            num_samples=int(np.diff(footer.starts)[unique_groups].sum()),
        )
    )
    return ReadPlan(
        read_method(ranges, shard_bytes=shard.num_bytes, otherwise="row groups"),
        ranges,
        bytes_selected=round(float((compressed * share).sum())),
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


def _without_tail(shard: Shard, ranges: list[Extent], tail_bytes: int) -> list[Extent]:
    """Return `ranges` without the tail that was already read; all of the shard if that was read."""
    end = shard.num_bytes - tail_bytes
    if end == 0:
        return [(0, shard.num_bytes)]
    return [(first, min(size, end - first)) for first, size in ranges if first < end]


def _fetch(shard: Shard, requests: list[Extent], tail: bytes) -> FetchedRanges:
    """Read the requests and append the tail, merged with the last range if they are adjacent."""
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
    """Return the footer; read a small shard completely."""
    small = _SMALL_SHARD_REQUESTS * storage.request_bytes(shard.uri)
    if shard.num_bytes > small or _footers.get(_key(shard)) is not None:
        return _cached_footer(shard)
    (data,) = storage.read_ranges(shard.uri, [(0, shard.num_bytes)], etag=shard.etag)
    footer = _parse(shard, data)
    return _footers.put(_key(shard), footer, num_bytes=footer.num_bytes)


def _cached_footer(shard: Shard) -> Footer:
    def load() -> Footer:
        url, num_bytes = shard.uri, shard.num_bytes
        return _parse(shard, parquet_file.read_tail(url, num_bytes=num_bytes, etag=shard.etag))

    return _footers.get_or_load(_key(shard), load, size_of=lambda footer: footer.num_bytes)


def _parse(shard: Shard, tail: bytes) -> Footer:
    if len(tail) == shard.num_bytes or shard.num_bytes <= _CACHED_SHARD_BYTES:
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


def _extend_schema(samples: Sequence[Sample], path: Path, *, known: pa.Schema) -> pa.Schema:
    """Return `known`, extended by the columns and types of `samples`.

    A value that would not be read as it was written (2.5 in an integer column) is refused.
    """
    names = {name for sample in samples for name in sample}
    try:
        schema = pa.table({name: [sample.get(name) for sample in samples] for name in names}).schema
    except _TYPE_ERRORS as error:
        raise InputError(f"cannot write {path}: {error}. Every column needs one type") from error
    if not names:
        raise InputError(f"cannot write {path}: {len(samples)} samples without any column")
    kinds = {field.name: field.type for field in known}
    for field in schema:
        earlier = kinds.get(field.name, pa.null())
        wider = _wider(earlier, field.type)
        if wider is None:
            raise InputError(
                f"cannot write {path}: column {field.name!r} starts as {earlier} and continues as"
                f" {field.type}. Every column needs one type"
            )
        kinds[field.name] = wider
    return pa.schema(sorted(kinds.items()))


def _open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Encoded images do not repeat: a dictionary makes decoding 50 % slower, and statistics put the
    # smallest and largest image into the footer.
    plain = [field.name for field in schema if not pa.types.is_binary(field.type)]
    try:
        return pq.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
        )
    except pa.ArrowException as error:
        # Parquet does not support structs without fields.
        raise InputError(f"cannot write {path}: {error}") from error


def _append(writer: pq.ParquetWriter, samples: Sequence[Sample], path: Path) -> None:
    columns = {name: [sample.get(name) for sample in samples] for name in writer.schema.names}
    for field in writer.schema:
        # pyarrow would convert True to 1.0.
        if any(_has_bool(value, field.type) for value in columns[field.name]):
            raise InputError(
                f"cannot write {path}: column {field.name!r} has both numbers and booleans."
                " Every column needs one type"
            )
    try:
        writer.write_table(pa.table(columns, schema=writer.schema))
    except _TYPE_ERRORS as error:
        raise InputError(f"cannot write {path}: {error}. Every column needs one type") from error


def _rewrite(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Rewrite the file at `path` in a wider schema; return a writer that continues it."""
    writer = _open_writer(Path(f"{path}.wider"), schema)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field.name, pa.nulls(table.num_rows))
            writer.write_table(table.select(schema.names).cast(schema))
    Path(f"{path}.wider").replace(path)
    return writer


def _wider(known: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    """Return the type that represents values of both exactly; None if there is none.

    A column that was null, empty or absent so far takes any type.
    """
    if pa.types.is_null(new) or new == known:
        return known
    if pa.types.is_null(known):
        return new
    if pa.types.is_list(new) and pa.types.is_list(known):
        item = _wider(known.value_type, new.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(new) and pa.types.is_struct(known):
        fields = {field.name: field.type for field in known}
        for field in new:
            fields[field.name] = _wider(fields.get(field.name, pa.null()), field.type)
        is_mixed = any(kind is None for kind in fields.values())
        return None if is_mixed else pa.struct(list(fields.items()))
    # pyarrow refuses integers that a float cannot represent.
    fits = pa.types.is_integer(new) and pa.types.is_floating(known)
    return known if fits else None


def _has_bool(value: Any, kind: pa.DataType) -> bool:
    """Whether `value` has a bool where `kind` has a number."""
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
