"""Estimated reads of a Lance file: pylance reads by itself, and does not say what. Pure.

It reads a large value by its offsets, which a small index has, and small values in chunks of some
KiB. Extents closer than its block size become one request. Values are taken to be of equal sizes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalogs.lance_files.contents import Contents, StoredColumn
from catalogs.read_plan import Extent, coalesce

# Block sizes of pylance.
LOCAL_BLOCK_BYTES: Final = 4 << 10
REMOTE_BLOCK_BYTES: Final = 64 << 10
# Requests to a bucket at a time: pylance sends more, but shares the bandwidth with other readers.
_PARALLEL: Final = 16
# Reading this share of a shard's bytes is reading all of it.
_WHOLE_SHARE: Final = 0.9
_INDEX_BYTES: Final = 4

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class File:
    """What reading a file costs.

    Attributes:
        num_bytes: its size.
        request_bytes: cost of a request, in bytes that could be read instead.
        is_local: whether it is on a local disk.
    """

    num_bytes: int
    request_bytes: int
    is_local: bool


def plan_ranges(
    contents: Contents, columns: Sequence[str], *, rows: Rows, file: File
) -> list[Extent]:
    """Return the whole file as one range if that is cheaper, else the estimated ranges."""
    block_bytes = LOCAL_BLOCK_BYTES if file.is_local else REMOTE_BLOCK_BYTES
    ranges = _estimated_ranges(contents, columns, rows=rows, block_bytes=block_bytes)
    num_bytes = sum(size for _, size in ranges)
    requests = len(ranges) / (1 if file.is_local else _PARALLEL)
    is_whole = (
        num_bytes >= _WHOLE_SHARE * file.num_bytes
        or requests * file.request_bytes + num_bytes > file.request_bytes + file.num_bytes
    )
    return [(0, file.num_bytes)] if ranges and is_whole else ranges


def _estimated_ranges(
    contents: Contents, columns: Sequence[str], *, rows: Rows, block_bytes: int
) -> list[Extent]:
    """Return ranges as many and as large as those that are read, not at their real offsets."""
    ranges: list[Extent] = []
    start = 0
    for name in columns:
        for column in contents.columns[name]:
            for extents in _extents(column, rows=rows, num_rows=contents.num_rows):
                merged = coalesce(extents, request_bytes=block_bytes)
                ranges += [(start + offset, size) for offset, size in merged]
                start = max([start, *map(sum, ranges[-1:])])
    return ranges


def selected_bytes(contents: Contents, columns: Sequence[str], *, num_rows: int) -> int:
    """Return the share of the columns' bytes that `num_rows` rows have."""
    total = sum(part.num_bytes for name in columns for part in contents.columns[name])
    return round(total * num_rows / max(contents.num_rows, 1))


def decoded_bytes(contents: Contents, columns: Sequence[str], *, num_rows: int) -> int:
    """Return the memory of `num_rows` rows, about: at least the width of their types."""
    total = 0.0
    for name in columns:
        kind = contents.schema.field(name).type
        width = kind.bit_width / 8 if pa.types.is_primitive(kind) else 0.0
        stored = sum(part.num_bytes for part in contents.columns[name]) / max(contents.num_rows, 1)
        total += max(stored, width) * num_rows
    return math.ceil(total)


def _extents(column: StoredColumn, *, rows: Rows, num_rows: int) -> Iterator[list[Extent]]:
    """Yield the extents of an index or of chunk sizes, and those of values."""
    if not (column.num_bytes and len(rows)):
        return
    pages = np.unique(rows * column.num_pages // num_rows)
    if not column.chunk_bytes:
        yield [(int(row) * _INDEX_BYTES, 2 * _INDEX_BYTES) for row in rows]
        bounds = np.arange(num_rows + 1) * column.num_bytes // num_rows
        yield [(int(bounds[row]), int(bounds[row + 1] - bounds[row])) for row in rows]
        return
    num_chunks = -(-column.num_bytes // column.chunk_bytes)
    page_index = _INDEX_BYTES * -(-num_chunks // column.num_pages)
    yield [(int(page) * page_index, page_index) for page in pages]
    chunks = np.unique(rows * num_chunks // num_rows)
    yield [(int(chunk) * column.chunk_bytes, column.chunk_bytes) for chunk in chunks]
