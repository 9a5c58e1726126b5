"""Parquet files as rows of columns with the types that they have."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError
from catalogs import storage
from catalogs.file_contents import HEAD_BYTES, check_contents
from pipeline.corpus.column_types import Types

_BATCH_ROWS = 1024


def contents_of(url: str) -> tuple[int, pa.Schema]:
    """Return the number of rows, and the columns with their metadata.

    Raises:
        InputError: the file is damaged.
    """
    with storage.local_copy(url) as path, _open(path, url) as file:
        names = file.schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"{url} has {names.count(twice[0])} columns named {twice[0]!r}, expected one: write"
                " the file again with other names"
            )
        return int(file.metadata.num_rows), file.schema_arrow


def common_schema(schemas: list[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return the columns of all files, with the metadata of the first.

    Raises:
        InputError: a file has another type for a column.
    """
    first_url, common = schemas[0]
    for url, schema in schemas[1:]:
        try:
            merged = pa.unify_schemas([common, schema])
        except pa.ArrowException as error:
            raise InputError(
                f"{url}: its columns have other types than those of {first_url}: {error}. Convert"
                " the files one by one, or write them with one schema"
            ) from error
        common = merged.with_metadata(common.metadata)
    return common


def tables_of(url: str, *, start: int, stop: int, types: Types) -> Iterator[pa.Table]:
    """Yield the rows from `start` to `stop` with columns of these types.

    A file that lacks a column has nulls in it.

    Raises:
        InputError: the file is damaged, or a value does not have its column's type.
    """
    with storage.local_copy(url) as path, _open(path, url) as file:
        groups, skipped = _groups_from(file, start)
        rows = stop - start
        columns = [name for name in types if name in file.schema_arrow.names]
        try:
            batches = file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=columns)
            for batch in batches:
                table = pa.Table.from_batches([batch]).slice(skipped, rows)
                skipped = max(0, skipped - batch.num_rows)
                rows -= table.num_rows
                if table.num_rows:
                    yield _with_types(table, types, url)
                if not rows:
                    return
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{url}: not a readable Parquet file: {error}") from error


def _groups_from(file: pq.ParquetFile, start: int) -> tuple[list[int], int]:
    """Return the row groups from the one with the row `start`, and the rows before it there."""
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if start < num_rows:
            return list(range(group, file.num_row_groups)), start
        start -= num_rows
    return [], 0


def _with_types(table: pa.Table, types: Types, url: str) -> pa.Table:
    columns = {}
    for name, dtype in types.items():
        if name not in table.column_names:
            columns[name] = pa.nulls(table.num_rows, dtype)
            continue
        try:
            column = table[name]
            columns[name] = column if column.type == dtype else column.cast(dtype)
        except pa.ArrowException as error:
            raise InputError(f"{url}: column {name!r} is not {dtype}: {error}") from error
    return pa.table(columns)


def _open(path: Path, url: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        with path.open("rb") as file:
            check_contents(file.read(HEAD_BYTES), url)
        raise InputError(f"{url}: not a readable Parquet file: {error}") from error
