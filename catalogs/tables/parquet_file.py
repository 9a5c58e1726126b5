"""One Parquet file at any URL: its footer, and ranged reads of row groups and columns."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import InputError
from catalogs import read_plan, storage
from catalogs.read_plan import Extent, FetchedRanges
from catalogs.tables import decoded_size, footer_parser

# Enough for the footer of most files, so that one request suffices.
TAIL_BYTES = 1 << 16
_MAGIC = b"PAR1"
# A row group is decoded as a whole. Larger ones (before compression, in the columns that are read)
# are refused: a few kB on disk can decompress to any size.
_MAX_GROUP_BYTES = 8 << 30
# A file starts with magic bytes; the first column chunk follows.
_START_BYTES = 64
# Buffer of a column chunk whose end may not be needed.
_BUFFER_BYTES = 1 << 18
# Memory of a parsed footer in pyarrow: fixed, and per column chunk (measured).
_FOOTER_BYTES = 8 << 10
_CHUNK_BYTES = 820


@dataclass(frozen=True)
class Footer:
    """Layout of one Parquet file.

    `starts` is int64[groups + 1]: the first row of each row group, and the number of rows;
    `offsets`, `sizes` and `uncompressed` (sizes before compression) of the column chunks are
    int64[groups, leaves]; `leaves` maps each top-level column to its column chunks.
    """

    metadata: pq.FileMetaData
    schema: pa.Schema
    starts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    uncompressed: npt.NDArray[np.int64]
    leaves: dict[str, slice]
    # Row group and leaf of the column chunks whose decoded size was checked.
    checked: set[tuple[int, int]] = field(default_factory=set, repr=False, compare=False)

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])

    @property
    def num_groups(self) -> int:
        return len(self.starts) - 1

    @property
    def num_bytes(self) -> int:
        """Approximate memory of this footer."""
        parsed = _FOOTER_BYTES + _CHUNK_BYTES * self.sizes.size
        return int(self.metadata.serialized_size) + parsed

    def groups_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row group of each of `rows`."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def group_bytes(self, group: int, columns: Sequence[str]) -> int:
        """Return the compressed size of the column chunks of `columns` in one row group."""
        return sum(int(self.sizes[group, self.leaves[name]].sum()) for name in columns)

    def uncompressed_bytes(self, group: int, columns: Sequence[str]) -> int:
        """Return the uncompressed size of the column chunks of `columns` in one row group."""
        return sum(int(self.uncompressed[group, self.leaves[name]].sum()) for name in columns)

    def leaf_numbers(self, columns: Sequence[str]) -> list[int]:
        """Return the numbers of the column chunks of `columns` in a row group."""
        return [leaf for name in columns for leaf in range(*self.leaves[name].indices(1 << 30))]

    def extents(self, groups: Sequence[int], columns: Sequence[str]) -> list[Extent]:
        """Return the extents of the column chunks of `columns` in the row groups `groups`."""
        leaves = self.leaf_numbers(columns)
        offsets, sizes = self.offsets[groups][:, leaves], self.sizes[groups][:, leaves]
        return list(zip(offsets.ravel().tolist(), sizes.ravel().tolist(), strict=True))


def min_and_max(footer: Footer, *, group: int, column: str) -> tuple[Any, Any] | None:
    """Return minimum and maximum of a plain column in one row group, from its statistics."""
    statistics = footer.metadata.row_group(group).column(footer.leaves[column].start).statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return statistics.min, statistics.max


def load_footer(url: str, *, num_bytes: int, etag: str | None = None) -> Footer:
    """Read and parse the footer of a file of `num_bytes` bytes.

    Raises:
        InputError: it is not a complete Parquet file.
    """
    tail = read_tail(url, num_bytes=num_bytes, etag=etag)
    return parse_footer(tail, url=url, num_bytes=num_bytes)


def read_tail(url: str, *, num_bytes: int, etag: str | None = None) -> bytes:
    """Read the last bytes of a file of `num_bytes` bytes: at least its footer.

    Raises:
        InputError: it is not a complete Parquet file.
    """
    length = min(num_bytes, TAIL_BYTES)
    (tail,) = storage.read_ranges(url, [(num_bytes - length, length)], etag=etag)
    needed = footer_bytes(tail, url=url, num_bytes=num_bytes)
    if needed <= length:
        return tail
    (rest,) = storage.read_ranges(url, [(num_bytes - needed, needed - length)], etag=etag)
    return rest + tail


def footer_bytes(tail: bytes, *, url: str, num_bytes: int) -> int:
    """Return the size of the footer and its frame at the end of the file."""
    if num_bytes < 12 or tail[-4:] != _MAGIC:
        raise InputError(
            f"{url} is not a complete Parquet file: expected it to end in 'PAR1', found"
            f" {bytes(tail[-4:])!r}. It may be truncated; write or copy it again"
        )
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed > num_bytes:
        raise InputError(f"{url} is damaged: its footer claims to be longer than the file")
    return needed


def parse_footer(tail: bytes, *, url: str, num_bytes: int) -> Footer:
    """Parse the footer in the last bytes of a file. Raises `InputError` if it is damaged."""
    footer_bytes(tail, url=url, num_bytes=num_bytes)
    try:
        return _parse_footer(tail, url=url, num_bytes=num_bytes)
    except InputError:
        raise
    # A damaged footer may hold any numbers and any text.
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        raise InputError(
            f"{url} is damaged: its Parquet footer cannot be read ({error})"
        ) from error


def _parse_footer(tail: bytes, *, url: str, num_bytes: int) -> Footer:
    metadata, schema, facts = footer_parser.parse(tail)
    if duplicates := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise InputError(f"{url} has two columns named {duplicates[0]!r}: rename one of them")
    shape = (len(facts), metadata.num_columns, 3)
    offsets, sizes, uncompressed = np.moveaxis(
        np.array(facts, np.int64).reshape(shape), 2, 0
    ).copy()
    if int((offsets + sizes).max(initial=0)) > num_bytes:
        raise InputError(f"{url} is damaged: its footer names bytes beyond the end of the file")
    if min(int(array.min(initial=0)) for array in (offsets, sizes, uncompressed)) < 0:
        raise InputError(f"{url} is damaged: its footer names a negative number of bytes")
    counts = [metadata.row_group(group).num_rows for group in range(len(facts))]
    starts = np.cumsum([0, *counts], dtype=np.int64)
    return Footer(metadata, schema, starts, offsets, sizes, uncompressed, _leaves(schema))


def fetch(
    url: str, *, footer: Footer, groups: Sequence[int], columns: Sequence[str], etag: str | None
) -> FetchedRanges:
    """Read the column chunks of `columns` in the row groups `groups`, in few requests."""
    extents = footer.extents(groups, columns)
    ranges = read_plan.coalesce(extents, request_bytes=storage.request_bytes(url))
    return FetchedRanges(ranges, storage.read_ranges(url, ranges, etag=etag))


def read_groups(
    url: str, *, footer: Footer, groups: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """Read the row groups `groups` as one table of `columns`. Raises what `decode` raises."""
    source = _source(url, footer=footer, groups=groups, columns=columns)
    return pa.concat_tables(_decode(url, source, footer=footer, groups=groups, columns=columns))


def first_rows(
    url: str, *, footer: Footer, group: int, columns: Sequence[str], num_rows: int
) -> pa.Table:
    """Read the first rows of one row group without decoding the rest."""
    source = _source(url, footer=footer, groups=[group], columns=columns)
    with open_file(url, source, footer=footer, buffer_bytes=_BUFFER_BYTES) as file:
        check_decoded_size(url, source, footer=footer, group=group, columns=columns)
        batches = file.iter_batches(num_rows, row_groups=[group], columns=list(columns))
        first = next(batches, None)  # a row group may be empty
        table = footer.schema.empty_table() if first is None else pa.Table.from_batches([first])
        return table.select(list(columns))


def decode(
    url: str,
    fetched: FetchedRanges,
    *,
    footer: Footer,
    groups: Sequence[int],
    columns: Sequence[str],
) -> Iterator[pa.Table]:
    """Yield one table for each of `groups`.

    Raises:
        InputError: a page is damaged, or a row group is too large to be decoded.
    """
    return _decode(url, _file(fetched), footer=footer, groups=groups, columns=columns)


def extend_to_start(ranges: Sequence[Extent]) -> list[Extent]:
    """Extend the first range to byte 0 if it starts only a few bytes later."""
    if not ranges or ranges[0][0] > _START_BYTES:
        return list(ranges)
    return [(0, sum(ranges[0])), *ranges[1:]]


def _file(fetched: FetchedRanges) -> Any:
    # Reading a Python file needs the GIL for each call; reading a buffer never does.
    if len(fetched.ranges) == 1 and fetched.ranges[0][0] == 0:
        return pa.BufferReader(fetched.data[0])
    return pa.PythonFile(_FetchedFile(fetched), mode="r")


def _source(url: str, *, footer: Footer, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """Return a file from which pyarrow can read the column chunks of `columns`."""
    if storage.is_local(url):
        return storage.normalise(url)
    return _file(fetch(url, footer=footer, groups=groups, columns=columns, etag=None))


def _decode(
    url: str,
    source: Any,
    *,
    footer: Footer,
    groups: Sequence[int],
    columns: Sequence[str],
) -> Iterator[pa.Table]:
    for group in groups:
        if (num_bytes := footer.uncompressed_bytes(group, columns)) > _MAX_GROUP_BYTES:
            raise InputError(
                f"{url}: row group {group} has {num_bytes} bytes before compression, expected at"
                f" most {_MAX_GROUP_BYTES}. Write the file with smaller row groups"
                " (`attent ingest --convert parquet` does)"
            )
    with open_file(url, source, footer=footer) as file:
        for group in groups:
            check_decoded_size(url, source, footer=footer, group=group, columns=columns)
            # One thread: callers already decode in many threads.
            table = file.read_row_group(group, columns=list(columns), use_threads=False)
            yield table.select(list(columns))


def check_decoded_size(
    url: str, source: Any, *, footer: Footer, group: int, columns: Sequence[str]
) -> None:
    """Check the decoded size of columns of a row group, once for each footer.

    Raises:
        InputError: it is too large.
    """
    leaves = footer.leaf_numbers(columns)
    if not footer.checked.issuperset((group, leaf) for leaf in leaves):
        decoded_size.check_decoded_size(
            url, source, metadata=footer.metadata, group=group, leaves=leaves
        )
        footer.checked.update((group, leaf) for leaf in leaves)


@contextlib.contextmanager
def open_file(
    url: str, source: Any, *, footer: Footer, buffer_bytes: int = 0
) -> Iterator[pq.ParquetFile]:
    """Open a file whose footer is known.

    Raises:
        InputError: what is read of it is damaged.
    """
    try:
        yield pq.ParquetFile(source, metadata=footer.metadata, buffer_size=buffer_bytes)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{url} is damaged: {error}. Write or copy it again") from error


class _FetchedFile(io.RawIOBase):
    """Read-only sparse file: pyarrow reads only ranges that were fetched."""

    def __init__(self, fetched: FetchedRanges) -> None:
        super().__init__()
        self._fetched = fetched
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = sum(self._fetched.ranges[-1]) if self._fetched.ranges else 0
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> Any:
        # A memoryview: pyarrow takes it without a copy.
        view = self._fetched.cut(self._position, size)
        self._position += size
        return view


def _leaves(schema: pa.Schema) -> dict[str, slice]:
    slices, first = {}, 0
    for column in schema:
        last = first + _num_leaves(column.type)
        slices[column.name] = slice(first, last)
        first = last
    return slices


def _num_leaves(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        return _num_leaves(kind.storage_type)
    if pa.types.is_dictionary(kind) or kind.num_fields == 0:
        return 1
    return sum(_num_leaves(kind.field(position).type) for position in range(kind.num_fields))
