"""Tables ↔ Parquet files at any URL: footer notes, small tables, streamed writes, lazy scans.

Here: how this project's own tables are encoded and read. Not here: what is in them
(`attent_select/schema.py`) and the users' shards (`catalogs/formats/`).
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from attent_select.errors import InputError, MissingError
from attent_select.teaching import Preview
from catalogs import parquet_file, storage
from catalogs.objects import needing_space

SchemaDict = dict[str, Any]
Notes = dict[str, Any]

# The key of our JSON notes in a Parquet footer.
_NOTES = b"attent_select"
_ORDER = ("shard_id", "row")
_ROWS_PER_BATCH = 1 << 18
# A preview takes so many rows of so many files: half a million in all.
_PREVIEWED_FILES = 64
_PREVIEWED_ROWS = 1 << 13


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """An Arrow table with plain strings (pyarrow writes no view types the way others read them)."""
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def arrow_schema(schema: SchemaDict) -> pa.Schema:
    """The Arrow schema of a polars schema."""
    return to_arrow(pl.DataFrame(schema=schema)).schema


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer for tables in (shard_id, row) order: delta-coded ids, byte-split floats, zstd."""
    encodings = {}
    for field in schema:
        if field.name in (*_ORDER, "offset") and pa.types.is_integer(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_floating(field.type):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
    order = [(name, "ascending") for name in _ORDER if name in schema.names]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        column_encoding=encodings,
        use_dictionary=[name for name in schema.names if name not in encodings],
        sorting_columns=pq.SortingColumn.from_ordering(schema, order) if order else None,
    )


def publish_tables(
    url: str, tables: Iterable[pa.Table], *, schema: pa.Schema, notes: Callable[[], Notes]
) -> None:
    """Publish Parquet: a row group for each table, and what `notes()` says after the last."""
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder) / "table.parquet"
        with needing_space(url):
            write_tables(path, tables, schema=schema, notes=notes)
        storage.publish(url, path)


def write_tables(
    path: Path, tables: Iterable[pa.Table], *, schema: pa.Schema, notes: Callable[[], Notes]
) -> None:
    """`publish_tables` to a local file that is not published yet."""
    with open_writer(path, schema) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({_NOTES: json.dumps(notes(), sort_keys=True)})


def publish_frame(url: str, frame: pl.DataFrame, *, notes: Notes) -> None:
    """Publish a small table."""
    table = to_arrow(frame)
    publish_tables(url, [table], schema=table.schema, notes=lambda: notes)


def read_frame(url: str, *, schema: SchemaDict) -> tuple[pl.DataFrame, Notes]:
    """A whole small table and its notes. Raises `InputError` if a column of `schema` is missing."""
    data = storage.read(url)
    footer = parquet_file.parse_footer(data, url=url, num_bytes=len(data))
    _checked(footer.schema.names, schema=schema, url=url)
    table = pq.read_table(pa.BufferReader(data), columns=list(schema))
    return _frame(table).cast(pl.Schema(schema)), notes_of(footer)


def footer_of(url: str) -> parquet_file.Footer:
    """The footer of the Parquet file at `url`. Raises `MissingError` if there is none."""
    found = storage.info(url)
    if found is None:
        raise MissingError(f"{url} is not there: expected a Parquet file")
    return parquet_file.load_footer(url, num_bytes=found.num_bytes)


def notes_of(footer: parquet_file.Footer) -> Notes:
    """Our notes in a footer; empty if another program wrote the file."""
    found = (footer.metadata.metadata or {}).get(_NOTES)
    return dict(json.loads(found)) if found else {}


def polars_schema(footer: parquet_file.Footer) -> SchemaDict:
    """The polars schema of a file's columns."""
    return dict(_frame(footer.schema.empty_table()).schema)


def scan(urls: Sequence[str], *, schema: SchemaDict) -> pl.LazyFrame:
    """The rows of Parquet files that have at least `schema`, lazily, in the order of `urls`."""
    if not urls:
        return pl.LazyFrame(schema=schema)
    if all(storage.is_local(url) for url in urls):
        return pl.scan_parquet(
            [storage.normalise(url) for url in urls],
            schema=schema,
            glob=False,
            extra_columns="ignore",
        )

    def source(
        columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        names = list(schema) if columns is None else columns
        kinds = {name: schema[name] for name in names}
        frames = (frame for url in urls for frame in _frames(url, schema=kinds))
        yield from limited(frames, where=where, limit=limit)

    return register_io_source(source, schema=schema)


@contextlib.contextmanager
def damage_named(urls: Iterable[str], *, columns: Iterable[str]) -> Iterator[None]:
    """Around scans of `urls`: where polars cannot read them, says which file it is.

    polars names none. They are looked through only after it has failed.

    Raises:
        InputError: names the file, or what polars said where every file can be read.
    """
    try:
        yield
    except (pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
        urls, wanted = list(urls), set(columns)
        for url in urls:
            kinds = polars_schema(footer_of(url))
            for _ in _frames(url, schema={name: kinds[name] for name in kinds if name in wanted}):
                pass
        raise InputError(f"{', '.join(urls[:3])}: cannot be read: {error}") from error


def preview(urls: Sequence[str], *, schema: SchemaDict, total: int | None = None) -> Preview:
    """The first rows of some of the files, for `attent_select.select` to guess from.

    `total` is the number of rows of all files; read from their footers where it is not known.
    """
    if total is None:
        total = sum(footer_of(url).metadata.num_rows for url in urls)
    some = urls[:: -(-len(urls) // _PREVIEWED_FILES) or 1]
    rows = [scan([url], schema=schema).head(_PREVIEWED_ROWS) for url in some]
    return Preview(total, pl.concat([pl.LazyFrame(schema=schema), *rows]))


def limited(
    frames: Iterable[pl.DataFrame], *, where: pl.Expr | None, limit: int | None
) -> Iterator[pl.DataFrame]:
    """What an IO source owes polars: the first `limit` rows, of which those that pass `where`."""
    for frame in frames:
        kept = frame if limit is None else frame.head(limit)
        limit = None if limit is None else limit - len(kept)
        yield kept if where is None else kept.filter(where)
        if limit == 0:
            return


class ColumnDigest:
    """Digest of columns without nulls, equal however the rows are cut into batches."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in columns}

    def update(self, batch: pl.DataFrame) -> None:
        for name, column_hash in self._hashes.items():
            column_hash.update(np.ascontiguousarray(batch[name].to_numpy()).data)

    def hexdigest(self) -> str:
        joined = b"".join(column_hash.digest() for column_hash in self._hashes.values())
        return hashlib.blake2b(joined, digest_size=16).hexdigest()


def _frames(url: str, *, schema: SchemaDict) -> Iterator[pl.DataFrame]:
    footer = footer_of(url)
    _checked(footer.schema.names, schema=schema, url=url)
    for groups in _batches(footer):
        if not schema:
            # Nothing but the number of rows is wanted.
            rows = sum(int(footer.starts[group + 1] - footer.starts[group]) for group in groups)
            yield pl.DataFrame(height=rows)
            continue
        columns = list(schema)
        fetched = parquet_file.fetch(url, footer=footer, groups=groups, columns=columns, etag=None)
        tables = parquet_file.decode(url, fetched, footer=footer, groups=groups, columns=columns)
        yield _frame(pa.concat_tables(tables)).cast(pl.Schema(schema))


def _batches(footer: parquet_file.Footer) -> Iterator[list[int]]:
    groups: list[int] = []
    for group in range(footer.num_groups):
        groups.append(group)
        if footer.starts[group + 1] - footer.starts[groups[0]] >= _ROWS_PER_BATCH:
            yield groups
            groups = []
    if groups:
        yield groups


def _checked(names: Sequence[str], *, schema: SchemaDict, url: str) -> None:
    if lacking := [name for name in schema if name not in names]:
        raise InputError(
            f"{url} lacks the column {lacking[0]!r}: expected {', '.join(schema)}; it has"
            f" {', '.join(names)}"
        )


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
