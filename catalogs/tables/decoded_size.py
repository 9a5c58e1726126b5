"""Limit on the decoded size of Parquet: a file of a kilobyte can decode to any number of bytes.

Run lengths, dictionaries and compression each expand: a value that is stored once can stand for
millions of rows. The size is computed from the footer and, for strings in a large dictionary, from
the dictionary and its indices, before anything is decoded.
"""

import os
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attent_select.errors import InputError

# A row group may always decode to this many bytes, and to more if it is stored in a fair share.
_SMALL_BYTES: Final = 1 << 30
_MAX_EXPANSION: Final = 16
_MAX_COMPRESSION: Final = 1000
LIMIT_VARIABLE: Final = "ATTENT_MAX_DECODED_BYTES"

_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
# Offset of a string, and header of a page: three small numbers.
_OFFSET_BYTES = 4
_HEADER_BYTES = 32


def check_decoded_size(
    url: str, source: Any, *, metadata: Any, group: int, leaves: list[int]
) -> None:
    """Check the decoded size of some columns (leaves) of a row group.

    Args:
        url: of the file, for the message.
        source: path of the file, or an Arrow file with the bytes of the columns.
        metadata: the footer.
        group: number of the row group.
        leaves: numbers of the columns.

    Raises:
        InputError: it is larger than the limit.
    """
    chunks = [metadata.row_group(group).column(leaf) for leaf in leaves]
    stored = sum(chunk.total_compressed_size for chunk in chunks)
    encoded = sum(chunk.total_uncompressed_size for chunk in chunks)
    limit = decoded_limit(encoded)
    if encoded > max(decoded_limit(0), _MAX_COMPRESSION * stored):
        raise _too_large(url, group, encoded, max(decoded_limit(0), _MAX_COMPRESSION * stored))
    decoded = encoded + sum(
        chunk.num_values * _width(chunk, metadata.schema.column(leaf))
        for chunk, leaf in zip(chunks, leaves, strict=True)
    )
    for chunk, leaf in zip(chunks, leaves, strict=True):
        if decoded > limit:
            break
        if not chunk.has_dictionary_page or chunk.physical_type != "BYTE_ARRAY":
            continue
        most = chunk.num_values * _dictionary_bytes(source, chunk.dictionary_page_offset)
        if decoded + most > limit:
            path = metadata.schema.column(leaf).path
            decoded += _bytes_of_strings(source, metadata, group=group, path=path)
    if decoded > limit:
        raise _too_large(url, group, decoded, limit)


def decoded_limit(encoded: int) -> int:
    """Return the limit for columns with a number of bytes after decompression.

    Raises:
        InputError: the variable `LIMIT_VARIABLE` of the environment is not a number.
    """
    small = os.environ.get(LIMIT_VARIABLE, "")
    if small and not small.isdecimal():
        raise InputError(f"{LIMIT_VARIABLE} is {small!r}: expected a number of bytes")
    return max(int(small or _SMALL_BYTES), _MAX_EXPANSION * encoded)


def _too_large(url: str, group: int, num_bytes: int, limit: int) -> InputError:
    return InputError(
        f"{url}: row group {group} decodes to {num_bytes} bytes or more, the limit is {limit}. If"
        f" you trust the file, write it with smaller row groups, or set {LIMIT_VARIABLE}"
    )


def _width(chunk: Any, column: Any) -> int:
    """Return the bytes of a value in Arrow, without those of a string."""
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return int(column.length)
    return _WIDTHS.get(chunk.physical_type, _OFFSET_BYTES)


def _dictionary_bytes(source: Any, offset: int) -> int:
    """Return the size of a dictionary page after decompression, from its header."""
    if isinstance(source, str):
        with open(source, "rb") as file:  # noqa: PTH123 - pathlib adds nothing here
            file.seek(offset)
            header = file.read(_HEADER_BYTES)
    else:
        source.seek(offset)
        header = bytes(source.read(_HEADER_BYTES))
    # Thrift's compact protocol: the fields 1 (type) and 2 (size) are i32 after a byte 0x15 each.
    position = 1
    while header[position] & 0x80:
        position += 1
    if header[0] != 0x15 or header[position + 1] != 0x15:
        return 1 << 31
    value = shift = 0
    for byte in header[position + 2 :]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    return value >> 1


def _bytes_of_strings(source: Any, metadata: Any, *, group: int, path: str) -> int:
    """Return the bytes of all strings of a column, read as a dictionary and its indices."""
    file = pq.ParquetFile(source, metadata=metadata, read_dictionary=[path])
    table = file.read_row_group(group, columns=[path], use_threads=False)
    return sum(_num_bytes(chunk) for column in table.columns for chunk in column.chunks)


def _num_bytes(array: Any) -> int:
    while not isinstance(array, pa.DictionaryArray):
        if pa.types.is_struct(array.type):
            return sum(map(_num_bytes, array.flatten()))
        if not pa.types.is_nested(array.type):
            return int(array.nbytes)
        array = array.values
    counts = np.bincount(array.indices.drop_null().to_numpy(), minlength=len(array.dictionary))
    lengths = pc.binary_length(array.dictionary).to_numpy(zero_copy_only=False)
    return int((counts * np.nan_to_num(lengths)).sum())
