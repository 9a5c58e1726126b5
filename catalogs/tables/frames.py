"""This project's tables as Parquet files at any URL: encoding, footer notes, streamed writes."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from attent_select import schema
from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.storage.objects import explain_full_disk
from catalogs.tables import file_digest, parquet_file
from catalogs.tables.byte_cache import BoundedCache

SchemaDict = dict[str, Any]
Notes = dict[str, Any]

# The key of our JSON notes in a Parquet footer.
_NOTES = b"attent_select"
# Note of a file in which every row group is one shard with the rows 0, 1, 2, …
DENSE = "dense"
# Rows of one batch of `row_batches`.
_ROWS_PER_BATCH = 1 << 20
_ORDER = ("shard_id", "row")
_NEVER_NULL = (*_ORDER, "weight", "probability")

# Every pass over a catalog needs all of them.
_footers: BoundedCache[parquet_file.Footer] = BoundedCache(max_bytes=16 << 20)
# URL and etag of the local files that were compared with their digests: about 30,000.
_verified: BoundedCache[bool] = BoundedCache(max_bytes=16 << 20)
_VERIFIED_BYTES = 500


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """Convert to an Arrow table with plain strings (other readers lack pyarrow's view types).

    Ids, weights, and losses without a null are declared as not nullable: reading them takes two
    thirds of the time.
    """
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    has_all_losses = "loss" in frame.columns and not frame["loss"].null_count()
    never_null = {*_NEVER_NULL, "loss"} if has_all_losses else set(_NEVER_NULL)
    fields = [f.with_nullable(f.name not in never_null) for f in table.schema]
    return table.cast(pa.schema(fields))


def arrow_schema(schema: SchemaDict) -> pa.Schema:
    """Return the Arrow schema of tables with a polars schema. A loss may be null."""
    fields = to_arrow(pl.DataFrame(schema=schema)).schema
    return pa.schema([f.with_nullable(f.nullable or f.name == "loss") for f in fields])


# Strings that differ in every row: a dictionary of them takes memory when it is read.
_DISTINCT = ("uri", "etag")


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer for tables in (shard_id, row) order: delta ids, byte-split floats, zstd."""
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
        use_dictionary=[name for name in schema.names if name not in (*encodings, *_DISTINCT)],
        sorting_columns=pq.SortingColumn.from_ordering(schema, order) if order else None,
    )


def publish_tables(
    url: str, tables: Iterable[pa.Table], *, schema: pa.Schema, notes: Callable[[], Notes]
) -> None:
    """Publish Parquet: a row group per table, and the result of `notes()` after the last table."""
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder) / "table.parquet"
        with explain_full_disk(url):
            write_tables(path, tables, schema=schema, notes=notes)
        storage.publish(url, path)


def write_tables(
    path: Path, tables: Iterable[pa.Table], *, schema: pa.Schema, notes: Callable[[], Notes]
) -> None:
    """Write what `publish_tables` publishes to a local file."""
    with open_writer(path, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=max(1, table.num_rows))
        written = notes() | {file_digest.NOTE: file_digest.UNKNOWN}
        writer.add_key_value_metadata({_NOTES: json.dumps(written, sort_keys=True)})
    file_digest.write_digest(path)


def publish_frame(url: str, frame: pl.DataFrame, *, notes: Notes) -> None:
    """Publish a small table."""
    table = to_arrow(frame)
    publish_tables(url, [table], schema=table.schema, notes=lambda: notes)


def read_frame(url: str, *, schema: SchemaDict) -> tuple[pl.DataFrame, Notes]:
    """Read a small table and its notes. Raises `InputError` if a column of `schema` is missing."""
    data = storage.read(url)
    file_digest.check_bytes(data, url=url)
    footer = parquet_file.parse_footer(data, url=url, num_bytes=len(data))
    _check_notes(footer, url=url)
    check_columns(footer, schema=schema, url=url)
    for group in range(footer.num_groups):
        source = pa.BufferReader(data)
        parquet_file.check_decoded_size(
            url, source, footer=footer, group=group, columns=list(schema)
        )
    # `pq.read_table` would import pyarrow.dataset, which takes longer than opening a run.
    with parquet_file.open_file(url, pa.BufferReader(data), footer=footer) as file:
        # A row group at a time: polars' strings are a copy of Arrow's.
        groups = (
            file.read_row_group(group, columns=list(schema), use_threads=False).select(list(schema))
            for group in range(footer.num_groups)
        )
        pieces = [from_arrow(group).cast(pl.Schema(schema)) for group in groups]
    return pl.concat([pl.DataFrame(schema=schema), *pieces]), notes_of(footer)


def footer_of(url: str) -> parquet_file.Footer:
    """Return the (cached) footer of the Parquet file at `url`.

    A local file with a digest is read completely, once per process, and compared with it.

    Raises:
        MissingError: there is no such file.
        InputError: it is damaged.
    """
    stored = storage.info(url)
    if stored is None:
        raise MissingError(f"{url} was not found: expected a Parquet file")
    return _footers.get_or_load(
        (stored.url, stored.etag),
        lambda: _load_footer(stored),
        size_of=lambda footer: footer.num_bytes,
    )


def _load_footer(stored: storage.ObjectInfo) -> parquet_file.Footer:
    tail = parquet_file.read_tail(stored.url, num_bytes=stored.num_bytes)
    key = (stored.url, stored.etag)
    if storage.is_local(stored.url) and not _verified.get(key):
        file_digest.check_local(Path(stored.url), tail, url=stored.url)
        _verified.put(key, True, num_bytes=_VERIFIED_BYTES)
    footer = parquet_file.parse_footer(tail, url=stored.url, num_bytes=stored.num_bytes)
    _check_notes(footer, url=stored.url)
    return footer


def _check_notes(footer: parquet_file.Footer, *, url: str) -> None:
    try:
        notes_of(footer)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{url} is damaged: the notes in its footer are not JSON") from error


def notes_of(footer: parquet_file.Footer) -> Notes:
    """Return our notes in a footer; empty if another program wrote the file."""
    text = (footer.metadata.metadata or {}).get(_NOTES)
    notes = dict(json.loads(text)) if text else {}
    notes.pop(file_digest.NOTE, None)
    return notes


def is_dense(footer: parquet_file.Footer) -> bool:
    """Whether every row group is one shard with the rows 0, 1, 2, …"""
    return bool(notes_of(footer).get(DENSE))


def check_columns(footer: parquet_file.Footer, *, schema: SchemaDict, url: str) -> None:
    """Raise `InputError` if a column of `schema` is missing."""
    names = footer.schema.names
    if missing := [name for name in schema if name not in names]:
        raise InputError(
            f"{url} lacks the column {missing[0]!r}: expected {', '.join(schema)}; it has"
            f" {', '.join(names)}"
        )


def polars_schema(footer: parquet_file.Footer) -> SchemaDict:
    """Return the polars schema of a file's columns."""
    # Not `empty_table`, which imports pandas where it is installed.
    return dict(from_arrow(pa.Table.from_batches([], footer.schema)).schema)


def filter_and_limit(
    frames: Iterable[pl.DataFrame], *, where: pl.Expr | None, limit: int | None
) -> Iterator[pl.DataFrame]:
    """Yield the first `limit` rows, filtered by `where`: the contract of a polars IO source."""
    for frame in frames:
        kept = frame if limit is None else frame.head(limit)
        limit = None if limit is None else limit - len(kept)
        yield kept if where is None else kept.filter(where)
        if limit == 0:
            return


class ColumnDigest:
    """Digest of columns without nulls that does not depend on how rows are batched."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._hashes = {name: hashlib.blake2b(digest_size=16) for name in columns}

    def update(self, batch: pl.DataFrame) -> None:
        self.update_arrays([batch[name].to_numpy() for name in self._hashes])

    def update_arrays(self, columns: Sequence[npt.NDArray[Any]]) -> None:
        """Add rows, given as the columns in their order."""
        for values, column_hash in zip(columns, self._hashes.values(), strict=True):
            column_hash.update(np.ascontiguousarray(values).data)

    def hexdigest(self) -> str:
        joined = b"".join(column_hash.digest() for column_hash in self._hashes.values())
        return hashlib.blake2b(joined, digest_size=16).hexdigest()


def from_arrow(table: pa.Table) -> pl.DataFrame:
    """Convert to polars without a copy."""
    # polars panics on metadata that is not text, which a damaged file may have.
    frame = pl.from_arrow(table.replace_schema_metadata(None))
    assert isinstance(frame, pl.DataFrame)
    return frame


def row_batches(counts: Sequence[int]) -> Iterator[pl.DataFrame]:
    """Yield (shard_id u32, row u32) of shards with these numbers of rows, in order."""
    chunk: list[pl.DataFrame] = []
    height = 0
    for shard_id, count in enumerate(counts):
        for first in range(0, count, _ROWS_PER_BATCH):
            rows = pl.int_range(
                first, min(count, first + _ROWS_PER_BATCH), dtype=pl.UInt32, eager=True
            )
            shard_ids = pl.lit(shard_id, dtype=pl.UInt32).alias(schema.SHARD_ID)
            chunk.append(pl.DataFrame({schema.ROW: rows}).select(shard_ids, schema.ROW))
            height += len(rows)
            if height >= _ROWS_PER_BATCH:
                yield pl.concat(chunk)
                chunk, height = [], 0
    if chunk:
        yield pl.concat(chunk)
