"""Parquet files as Parquet shards of a chosen size, with the types that they have."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError
from catalogs import storage

_BATCH_ROWS = 1024
# A row group has at most this many bytes, so that scattered rows are read cheaply.
_GROUP_BYTES = 8 << 20


def reshard(
    sources: Sequence[str],
    *,
    url_of: Callable[[int], str],
    existing: set[str],
    shard_samples: int,
    publish: Callable[[str, Path], None],
) -> list[str]:
    """Write shards of `shard_samples` rows each, in order, and return their URLs.

    Columns keep their types; a file that lacks a column has nulls in it. `existing` shards are not
    written again; `publish` gets the URL and the file of each other one.

    Raises:
        InputError: a file is damaged, or its columns have other types than those of the others.
    """
    schema = _common_schema(sources)
    rows = _Rows(_tables(sources, schema))
    urls: list[str] = []
    while not rows.is_empty():
        urls.append(url_of(len(urls)))
        tables = rows.take(shard_samples)
        if urls[-1] in existing:
            for _ in tables:
                pass
        else:
            _write(urls[-1], tables, schema=schema, publish=publish)
    return urls


def _write(
    url: str,
    tables: Iterator[pa.Table],
    *,
    schema: pa.Schema,
    publish: Callable[[str, Path], None],
) -> None:
    # Encoded images do not repeat, and statistics would put whole ones into the footer.
    plain = [field.name for field in schema if not pa.types.is_binary(field.type)]
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder, "shard")
        try:
            with pq.ParquetWriter(
                path, schema, compression="zstd", use_dictionary=plain, write_statistics=plain
            ) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=_group_rows(table))
        except pa.ArrowException as error:
            raise InputError(f"cannot write {url}: {error}") from error
        publish(url, path)


def _group_rows(table: pa.Table) -> int:
    rows = int(table.num_rows)
    return max(1, min(rows, rows * _GROUP_BYTES // max(int(table.nbytes), 1)))


class _Rows:
    """Tables as one sequence of rows."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._rest: pa.Table | None = None

    def is_empty(self) -> bool:
        while self._rest is None or not self._rest.num_rows:
            if (table := next(self._tables, None)) is None:
                return True
            self._rest = table
        return False

    def take(self, num_rows: int) -> Iterator[pa.Table]:
        """Yield the next rows, at most `num_rows`."""
        while num_rows and not self.is_empty():
            assert self._rest is not None
            table = self._rest.slice(0, num_rows)
            self._rest = self._rest.slice(table.num_rows)
            num_rows -= table.num_rows
            yield table


def _common_schema(sources: Sequence[str]) -> pa.Schema:
    common: pa.Schema | None = None
    for url in sources:
        with storage.local_copy(url) as path, _open(path, url) as file:
            schema = file.schema_arrow
        try:
            merged = schema if common is None else pa.unify_schemas([common, schema])
        except pa.ArrowException as error:
            raise InputError(
                f"{url}: its columns have other types than those of {sources[0]}: {error}. Convert"
                " the files one by one, or write them with one schema"
            ) from error
        common = merged.with_metadata((schema if common is None else common).metadata)
    assert common is not None
    return common


def _tables(sources: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    for url in sources:
        with storage.local_copy(url) as path, _open(path, url) as file:
            try:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield _in_schema(pa.Table.from_batches([batch]), schema)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{url}: not a readable Parquet file: {error}") from error


def _open(path: Path, url: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{url}: not a readable Parquet file: {error}") from error


def _in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    if any(column.type != field.type for column, field in zip(columns, schema, strict=True)):
        columns = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(columns, schema=schema)
