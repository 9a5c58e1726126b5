"""Parquet shards: one row, one sample.

Here: samples ↔ Parquet. Not here: how the bytes are fetched (`catalogs/parquet_file.py`). Only the
row groups and columns that hold the wanted rows are read.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError, MissingError
from catalogs import parquet_file, storage
from catalogs.cache import BoundedCache
from catalogs.parquet_file import Footer
from catalogs.read_plan import Fetched, checked_columns, checked_rows
from catalogs.shard_format import Inspection, Reading, Sample, Shard

# A shard that costs no more than so many requests is read whole rather than footer first.
_SMALL_SHARD_REQUESTS = 4
# A row group is written when it has so many samples or, about, bytes.
_GROUP_SAMPLES = 1024
_GROUP_BYTES = 8 << 20

_footers: BoundedCache[Footer] = BoundedCache(max_bytes=128 << 20)


class Parquet:
    """The Parquet shard format."""

    suffixes: tuple[str, ...] = (".parquet",)
    keeps_members = False

    def inspect(self, url: str) -> Inspection:
        """Sample count and columns, from the footer."""
        found = storage.info(url)
        if found is None:
            raise MissingError(f"{url} is not there: expected a Parquet file")
        footer = parquet_file.load_footer(url, num_bytes=found.num_bytes, etag=found.etag)
        return Inspection(num_samples=footer.num_rows, columns=tuple(footer.schema.names))

    def read(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """The samples at `rows`, from the row groups that hold them."""
        wanted = checked_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        if len(wanted) == 0:
            return Reading([], bytes_read=0, bytes_selected=0, num_requests=0)
        footer, whole = _footer(shard)
        checked_columns(columns, known=footer.schema.names, url=shard.uri)
        in_group = footer.groups_of(wanted)
        groups = np.unique(in_group).tolist()
        fetched = whole or parquet_file.fetch(
            shard.uri, footer=footer, groups=groups, columns=columns, etag=shard.etag
        )
        samples: list[Sample] = []
        bytes_selected = 0.0
        tables = parquet_file.decode(
            shard.uri, fetched, footer=footer, groups=groups, columns=columns
        )
        for group, table in zip(groups, tables, strict=True):
            positions = wanted[in_group == group] - footer.starts[group]
            samples.extend(_chosen(table, positions).to_pylist())
            share = len(positions) / table.num_rows
            bytes_selected += footer.group_bytes(group, columns) * share
        return Reading(samples, fetched.num_bytes, round(bytes_selected), len(fetched.ranges))

    def decoded_bytes(self, shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> int:
        """The samples' share of their row groups, and the largest of those, which is held whole.

        Counted before compression, but encoded: a value that a dictionary repeats counts once.
        """
        wanted = checked_rows(rows, num_samples=shard.num_samples, url=shard.uri)
        footer = _footers.get_or_load(
            (shard.uri, shard.etag),
            lambda: _load_footer(shard),
            size_of=lambda footer: footer.num_bytes,
        )
        checked_columns(columns, known=footer.schema.names, url=shard.uri)
        groups, counts = np.unique(footer.groups_of(wanted), return_counts=True)
        sizes = np.array([footer.unpacked_bytes(group, columns) for group in groups.tolist()])
        share = counts / np.diff(footer.starts)[groups]
        return round(float((sizes * share).sum() + sizes.max(initial=0)))

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Columns in the order of their names; their types are those of the first row group."""
        groups = _groups(samples)
        first = next(groups, None)
        if first is None:
            raise InputError(f"no samples to write to {path}: expected at least one")
        schema = _schema(first, path)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for group in itertools.chain([first], groups):
                writer.write_table(_table(group, schema, path))


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


def _footer(shard: Shard) -> tuple[Footer, Fetched | None]:
    """The footer, and the whole shard if that was read to get it."""
    key = (shard.uri, shard.etag)
    if (known := _footers.get(key)) is not None:
        return known, None
    if shard.num_bytes > _SMALL_SHARD_REQUESTS * storage.request_bytes(shard.uri):
        footer = _load_footer(shard)
        return _footers.put(key, footer, num_bytes=footer.num_bytes), None
    data = storage.read(shard.uri, etag=shard.etag)
    footer = parquet_file.parse_footer(data, url=shard.uri, num_bytes=len(data))
    _footers.put(key, footer, num_bytes=footer.num_bytes)
    return footer, Fetched([(0, len(data))], [data])


def _load_footer(shard: Shard) -> Footer:
    return parquet_file.load_footer(shard.uri, num_bytes=shard.num_bytes, etag=shard.etag)


def _chosen(table: pa.Table, positions: npt.NDArray[np.int64]) -> pa.Table:
    if len(positions) == table.num_rows:
        return table
    # A mask, not `take`: take joins chunks, and long binary columns overflow 2 GiB.
    mask = np.zeros(table.num_rows, dtype=np.bool_)
    mask[positions] = True
    return table.filter(pa.array(mask))


def _schema(samples: Sequence[Sample], path: Path) -> pa.Schema:
    return _inferred(samples, sorted({name for sample in samples for name in sample}), path).schema


def _table(samples: Sequence[Sample], schema: pa.Schema, path: Path) -> pa.Table:
    """A row group. What would not come back as it is (2.5 in a column of integers) is refused."""
    names = sorted({name for sample in samples for name in sample} | set(schema.names))
    for field in _inferred(samples, names, path).schema:
        wanted = schema.field(field.name).type if field.name in schema.names else None
        if wanted is None or not _fits(field.type, wanted):
            raise InputError(
                f"cannot write {path}: column {field.name!r} began as {wanted or 'nothing'} and"
                f" goes on as {field.type}. Every column needs one type, from the start"
            )
    columns = {name: [sample.get(name) for sample in samples] for name in schema.names}
    try:
        return pa.table(columns, schema=schema)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InputError(f"cannot write {path}: {error}. Every column needs one type") from error


def _inferred(samples: Sequence[Sample], names: Sequence[str], path: Path) -> pa.Table:
    try:
        return pa.table({name: [sample.get(name) for sample in samples] for name in names})
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InputError(f"cannot write {path}: {error}. Every column needs one type") from error


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether pyarrow converts values of type `found` to `wanted` without changing any."""
    if pa.types.is_null(found) or found == wanted:
        return True
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _fits(found.value_type, wanted.value_type)
    if pa.types.is_struct(found) and pa.types.is_struct(wanted):
        known = {field.name: field.type for field in wanted}
        return all(field.name in known and _fits(field.type, known[field.name]) for field in found)
    # pyarrow refuses integers that a float cannot hold.
    return bool(pa.types.is_integer(found) and pa.types.is_floating(wanted))
