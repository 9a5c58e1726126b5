"""Reading rows of Lance files by pylance, with its own access to local files and buckets.

The only access to storage besides `catalogs/storage/`; it gets the same endpoint, credentials and
retries. What it reads is estimated (`estimate`). Other URLs, and servers that answer ranges in
another way, are read as whole files through `catalogs/storage/`.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.lance_files.contents import HINT, Contents
from catalogs.lance_files.estimate import LOCAL_BLOCK_BYTES, REMOTE_BLOCK_BYTES
from catalogs.lance_files.pylance import lance_errors, lance_file
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


def count_opening(url: str, *, num_bytes: int) -> None:
    """Count what pylance reads to open a file: its last bytes, in a bucket also its size."""
    if storage.is_local(url):
        storage.count_read(num_bytes=min(LOCAL_BLOCK_BYTES, num_bytes), num_requests=1)
    else:
        storage.count_read(num_bytes=min(REMOTE_BLOCK_BYTES, num_bytes), num_requests=2)


@dataclass(frozen=True)
class Rows:
    """Rows of a file, in ascending order, and the columns to read.

    Attributes:
        positions: int64[n], not empty.
        columns: at least one.
        is_whole: read all rows and keep these: cheaper if they are many, or small.
    """

    positions: npt.NDArray[np.int64]
    columns: tuple[str, ...]
    is_whole: bool


def read_rows(url: str, contents: Contents, *, etag: str, rows: Rows) -> pa.Table:
    """Read some rows of a local file or of one in a bucket.

    Raises:
        InputError: the file is damaged, or decodes to more than the limit.
        MissingError: it was deleted.
        StorageError: storage failed after the retries.
    """
    options = storage.reader_options(url) or {}
    # Neither clients nor their threads survive a fork; credentials may change.
    key = (os.getpid(), url, etag, *rows.columns, *options.items())
    with lance_errors(url, hint=HINT):
        # A reader serves one thread at a time.
        reader = _readers.pop(key) or lance_file().LanceFileReader(
            url, storage_options=options, columns=list(rows.columns)
        )
        table = _decode(url, reader, contents, rows)
    _readers.put(key, reader, num_bytes=1)
    return table


def read_rows_of_copy(url: str, data: bytes, contents: Contents, *, rows: Rows) -> pa.Table:
    """Read some rows of a file whose bytes are `data`; raises what `read_rows` raises."""
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder, "copy.lance")
        path.write_bytes(data)
        with lance_errors(url, hint=HINT):
            reader = lance_file().LanceFileReader(str(path), columns=list(rows.columns))
            return _decode(url, reader, contents, rows)


def _decode(url: str, reader: Any, contents: Contents, rows: Rows) -> pa.Table:
    parts = [part for name in rows.columns for part in contents.columns[name]]
    limit = decoded_limit(sum(part.num_bytes for part in parts))
    largest = max(part.most_expanded for part in parts)
    batch_rows = max(min(_BATCH_ROWS, limit // max(largest, 1)), 1)
    fields = [contents.schema.field(name) for name in rows.columns]
    tables, num_bytes = [pa.schema(fields).empty_table()], 0
    for batch in _batches(reader, rows, batch_rows):
        num_bytes += batch.nbytes
        if num_bytes > limit:
            raise InputError(
                f"{url}: {len(rows.positions)} rows decode to more than {limit} bytes. If you"
                f" trust the file, write smaller shards, or set {LIMIT_VARIABLE}"
            )
        columns = [_with_type(batch.column(field.name), field) for field in fields]
        tables.append(pa.table(columns, tables[0].schema))
    table = pa.concat_tables(tables)
    if table.num_rows != len(rows.positions):
        raise InputError(
            f"{url}: {table.num_rows} of {len(rows.positions)} rows can be read. {HINT}"
        )
    return table


def _batches(reader: Any, rows: Rows, batch_rows: int) -> Iterator[pa.RecordBatch]:
    positions = rows.positions
    first, end = int(positions[0]), int(positions[-1]) + 1
    if rows.is_whole:
        yield from _keep(reader.read_all(batch_size=batch_rows).to_batches(), positions)
    elif end - first == len(positions):
        yield from reader.read_range(first, len(positions), batch_size=batch_rows).to_batches()
    else:
        yield from reader.take_rows(positions.tolist(), batch_size=batch_rows).to_batches()


def _keep(
    batches: Iterable[pa.RecordBatch], positions: npt.NDArray[np.int64]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows at `positions` of all rows."""
    start = 0
    for batch in batches:
        end = start + batch.num_rows
        first, last = np.searchsorted(positions, [start, end])
        mask = np.zeros(batch.num_rows, dtype=np.bool_)
        mask[positions[first:last] - start] = True
        yield batch.filter(pa.array(mask))
        start = end


def _with_type(column: pa.Array, field: pa.Field) -> pa.Array:
    if isinstance(field.type, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(field.type, column)
    return column if column.type == field.type else column.cast(field.type)
