"""Contents of a Lance file: rows, schema, and the sizes of its columns, from its metadata alone."""

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from attent_select.errors import InputError
from catalogs.lance_files import seal
from catalogs.lance_files.pylance import lance_errors, lance_file

HINT: Final = "It may be damaged: copy it again, or leave it out"
# Largest expansion of compressed buffers (LZ4), and of text by a table of symbols.
_MAX_COMPRESSION: Final = 256
_CHUNK_NUMBER_BYTES: Final = 4


@dataclass(frozen=True)
class StoredColumn:
    """A physical column: a field of the schema, or a field inside of a nested one.

    Attributes:
        num_bytes: of its pages.
        num_pages: pages, each read on its own.
        chunk_bytes: what is read for a value: a chunk of small values, or 0 for a single value.
        most_expanded: bytes that one value may decode to.
    """

    num_bytes: int
    num_pages: int
    chunk_bytes: int
    most_expanded: int


@dataclass(frozen=True)
class Contents:
    """What a Lance file holds.

    Attributes:
        num_rows: samples.
        schema: types of the fields, and the notes that their writer left.
        columns: the physical columns of each field.
        memory_bytes: size of this object, about.
    """

    num_rows: int
    schema: pa.Schema
    columns: dict[str, tuple[StoredColumn, ...]]
    memory_bytes: int


def contents_of(url: str, metadata: seal.Metadata) -> Contents:
    """Parse the metadata of a Lance file, in a file without the data.

    Raises:
        InputError: pylance cannot parse them.
    """
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        path = Path(folder, "metadata.lance")
        with path.open("wb") as file:
            file.seek(metadata.start)
            file.write(metadata.data)
        with lance_errors(url, hint=HINT):
            facts = lance_file().LanceFileReader(str(path)).metadata()
            schema = _written_schema(facts.schema)
            columns = [_stored_column(column) for column in facts.columns]
    return Contents(facts.num_rows, schema, _by_field(schema, columns, url), len(metadata.data))


def _stored_column(column: Any) -> StoredColumn:
    num_bytes = chunk_bytes = most_expanded = 0
    for page in column.pages:
        sizes = [buffer.size for buffer in page.buffers]
        num_bytes += sum(sizes)
        is_compressed = "General" in page.encoding
        if "FullZipLayout" not in page.encoding or is_compressed:
            factor = _MAX_COMPRESSION if is_compressed else 1
            most_expanded = max(most_expanded, sum(sizes) * factor)
        if "MiniBlockLayout" in page.encoding and len(sizes) > 1:
            num_chunks = max(sizes[0] // _CHUNK_NUMBER_BYTES, 1)
            chunk_bytes = max(chunk_bytes, -(-sizes[1] // num_chunks))
    return StoredColumn(num_bytes, len(column.pages), chunk_bytes, most_expanded)


def _by_field(
    schema: pa.Schema, columns: Sequence[StoredColumn], url: str
) -> dict[str, tuple[StoredColumn, ...]]:
    """Return the physical columns of each field: those of its leaves, in the file's order."""
    counts = [_num_leaves(field.type) for field in schema]
    if sum(counts) != len(columns):
        raise InputError(
            f"{url} stores {len(columns)} columns for {sum(counts)} fields, as old versions of"
            " Lance did: write it again with `attent ingest --convert lance`"
        )
    result, first = {}, 0
    for field, count in zip(schema, counts, strict=True):
        result[field.name] = tuple(columns[first : first + count])
        first += count
    return result


def _num_leaves(kind: pa.DataType) -> int:
    if pa.types.is_struct(kind):
        return sum(_num_leaves(field.type) for field in kind) or 1
    if pa.types.is_map(kind):
        return _num_leaves(kind.key_type) + _num_leaves(kind.item_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _num_leaves(kind.value_type) if is_list else 1


def encode_schema(schema: pa.Schema) -> str:
    """Return a schema as text, for the note of the seal."""
    return base64.b64encode(schema.serialize()).decode()


def _written_schema(stored: pa.Schema) -> pa.Schema:
    """Return the schema that the writer of a file had, or that of a file of another program."""
    note = (stored.metadata or {}).get(seal.NOTE.encode())
    if note is None:
        return stored
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(note[len(seal.EMPTY) :])))
    if schema.names != stored.names:
        raise ValueError(f"its columns are {stored.names}, and its note has {schema.names}")
    return schema
