"""Writing Lance files, with their seal. Equal tables give equal bytes.

The Arrow schema is kept in the note of the seal, with all metadata and with types that Lance lacks.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa

from catalogs.lance_files import seal
from catalogs.lance_files.contents import encode_schema
from catalogs.lance_files.pylance import lance_errors, lance_file

_VERSION: Final = "2.2"
# Of a column: larger pages have fewer indexes to read.
_PAGE_BYTES: Final = 32 << 20


def write_tables(path: Path, tables: Iterable[pa.Table], *, schema: pa.Schema) -> None:
    """Write tables of one schema to a local file.

    Raises:
        InputError: Lance cannot store a type.
    """
    stored = _storable(schema)
    hint = "Leave that column out, or write Parquet"
    with lance_errors(str(path), hint=hint):
        writer = lance_file().LanceFileWriter(
            str(path),
            stored,
            version=_VERSION,
            data_cache_bytes=_PAGE_BYTES * max(len(stored), 1),
            max_page_bytes=_PAGE_BYTES,
        )
        for table in tables:
            arrays = [_plain(column) for column in table.combine_chunks().columns]
            writer.write_batch(pa.table(arrays, schema=stored))
        writer.add_schema_metadata(seal.NOTE, seal.EMPTY + encode_schema(schema))
        writer.close()
    seal.write_seal(path)


def _storable(schema: pa.Schema) -> pa.Schema:
    """Return the schema without metadata, and extensions as what they are stored as.

    Lance would turn JSON into a binary form.
    """
    return pa.schema([(field.name, _storage_type(field.type)) for field in schema])


def _storage_type(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    chunks = [chunk.storage for chunk in column.chunks]
    return pa.chunked_array(chunks, column.type.storage_type)
