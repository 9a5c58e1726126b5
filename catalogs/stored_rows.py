"""Rows of a shard as they are stored: tables of Parquet and Lance, the members of tar files."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from catalogs.formats import lance
from catalogs.formats.webdataset import members_of_rows
from catalogs.read_plan import check_columns, check_rows
from catalogs.shard_format import Shard
from catalogs.tables import parquet_file, plain_values

__all__ = ["has_schema", "members_of_rows", "read_table", "schema_of"]

# Row groups that are fetched together.
_FETCHED_GROUPS = 16


_LANCE = "lance"


def has_schema(shard: Shard) -> bool:
    """Whether a shard stores tables, which have a schema."""
    return shard.format in ("parquet", _LANCE)


def schema_of(shard: Shard) -> pa.Schema:
    """Return the Arrow schema of a shard that has one, with the metadata that its writer left."""
    return lance.schema_of(shard) if shard.format == _LANCE else _footer(shard).schema


def read_table(shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Read samples at `rows` (strictly increasing) of a shard that has a schema, with their types.

    Raises:
        InputError: a column is not in the shard, or the shard is damaged.
        CorpusMismatchError: the shard is not the object that was ingested (etag).
    """
    if shard.format == _LANCE:
        return lance.read_table(shard, rows=rows, columns=columns)
    row_array = check_rows(rows, num_samples=shard.num_samples, url=shard.uri)
    footer = _footer(shard)
    check_columns(columns, known=footer.schema.names, url=shard.uri)
    groups, firsts = np.unique(footer.groups_of(row_array), return_index=True)
    rows_of = np.split(row_array, firsts[1:])
    tables = [
        plain_values.take_rows(table, group_rows - footer.starts[group])
        for group, group_rows, table in zip(
            groups.tolist(), rows_of, _decode(shard, footer, groups.tolist(), columns), strict=True
        )
    ]
    return pa.concat_tables(tables or [footer.schema.empty_table().select(list(columns))])


def _decode(
    shard: Shard, footer: parquet_file.Footer, groups: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.Table]:
    for first in range(0, len(groups), _FETCHED_GROUPS):
        some = groups[first : first + _FETCHED_GROUPS]
        fetched = parquet_file.fetch(
            shard.uri, footer=footer, groups=some, columns=columns, etag=shard.etag
        )
        yield from parquet_file.decode(
            shard.uri, fetched, footer=footer, groups=some, columns=columns
        )


def _footer(shard: Shard) -> parquet_file.Footer:
    return parquet_file.load_footer(shard.uri, num_bytes=shard.num_bytes, etag=shard.etag)
