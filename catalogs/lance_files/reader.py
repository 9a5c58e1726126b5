"""Reading rows of Lance files by pylance, with its own access to local files and buckets.

The only access to storage besides `catalogs/storage/`; it gets the same endpoint, credentials and
retries. What it reads is estimated (`estimate`). Other URLs, and servers that answer ranges in
another way, are read as whole files through `catalogs/storage/`.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.lance_files.contents import HINT, Contents
from catalogs.lance_files.library import lance_errors, lance_file
from catalogs.tables.byte_cache import BoundedCache
from catalogs.tables.decoded_size import LIMIT_VARIABLE, decoded_limit

_BATCH_ROWS: Final = 1024
# An open local file has a descriptor.
_OPEN_FILES: Final = 64

# Each counts as one byte. None is in use.
_readers: BoundedCache[Any] = BoundedCache(max_bytes=_OPEN_FILES)


def can_read(url: str) -> bool:
    """Whether pylance reads rows of a file at `url` by itself."""
    return storage.is_local(url) or storage.reader_options(url) is not None


def read_rows(
    url: str, contents: Contents, *, etag: str, rows: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """Read some rows of a local file or of one in a bucket.

    Raises:
        InputError: the file is damaged, or decodes to more than the limit.
        MissingError: it was deleted.
        StorageError: storage failed after the retries.
    """
    options = storage.reader_options(url) or {}
    # Neither clients nor their threads survive a fork; credentials may change.
    key = (os.getpid(), url, etag, *columns, *options.items())
    with lance_errors(url, hint=HINT):
        # A reader serves one thread at a time.
        reader = _readers.pop(key) or lance_file().LanceFileReader(
            url, storage_options=options, columns=list(columns)
        )
        table = _decoded(url, reader, contents, rows=rows, columns=columns)
    _readers.put(key, reader, num_bytes=1)
    return table


def read_rows_of_copy(
    url: str, data: bytes, contents: Contents, *, rows: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """Read some rows of a file whose bytes are `data`; raises what `read_rows` raises."""
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder, "copy.lance")
        path.write_bytes(data)
        with lance_errors(url, hint=HINT):
            reader = lance_file().LanceFileReader(str(path), columns=list(columns))
            return _decoded(url, reader, contents, rows=rows, columns=columns)


def _decoded(
    url: str, reader: Any, contents: Contents, *, rows: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    parts = [part for name in columns for part in contents.columns[name]]
    limit = decoded_limit(sum(part.num_bytes for part in parts))
    largest = max((part.most_expanded for part in parts), default=0)
    batch_rows = max(min(_BATCH_ROWS, limit // max(largest, 1)), 1)
    batches, num_bytes = list[pa.RecordBatch](), 0
    with contextlib.closing(_batches(reader, rows, batch_rows, contents.num_rows)) as stream:
        for batch in stream:
            num_bytes += batch.nbytes
            if num_bytes > limit:
                raise InputError(
                    f"{url}: {len(rows)} rows decode to more than {limit} bytes. If you trust the"
                    f" file, write smaller shards, or set {LIMIT_VARIABLE}"
                )
            batches.append(batch)
    table = pa.Table.from_batches(batches, schema=batches[0].schema if batches else None)
    if table.num_rows != len(rows):
        raise InputError(f"{url}: {table.num_rows} of {len(rows)} rows can be read. {HINT}")
    fields = [contents.schema.field(name) for name in columns]
    return pa.table([_typed(table[field.name], field) for field in fields], pa.schema(fields))


def _batches(
    reader: Any, rows: Sequence[int], batch_rows: int, num_rows: int
) -> Iterator[pa.RecordBatch]:
    if len(rows) == num_rows:
        results = reader.read_all(batch_size=batch_rows)
    elif rows[-1] - rows[0] == len(rows) - 1:
        results = reader.read_range(int(rows[0]), len(rows), batch_size=batch_rows)
    else:
        results = reader.take_rows([int(row) for row in rows], batch_size=batch_rows)
    yield from results.to_batches()


def _typed(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if isinstance(field.type, pa.BaseExtensionType):
        chunks = [pa.ExtensionArray.from_storage(field.type, chunk) for chunk in column.chunks]
        return pa.chunked_array(chunks, field.type)
    return column
