"""Scan of many Parquet files as one table: a LazyFrame, chunks, or a preview of a few rows.

pyarrow reads the files, because it decodes our encodings in half the time that polars takes.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from attent_select.sample_ids import IdWatch, Runs
from attent_select.schema import ROW, SHARD_ID
from attent_select.selection.chunks import Place
from attent_select.selection.select import Preview
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.tables import frames, parquet_file
from catalogs.tables.frames import SchemaDict
from catalogs.tables.parquet_file import Footer

Item = TypeVar("Item")
Result = TypeVar("Result")

_IDS: Final = frozenset([SHARD_ID, ROW])
# Consecutive row groups are read together up to this many rows: enough that planning a query per
# chunk takes a negligible time.
ROWS_PER_CHUNK = 1 << 20
# A preview reads this many files and rows of each: a million rows in total.
PREVIEWED_FILES = 128
PREVIEWED_ROWS = 1 << 13
# These threads mostly wait for storage; each holds a chunk, so remote chunks are smaller.
REMOTE_THREADS = 16
REMOTE_ROWS_PER_CHUNK = 1 << 18


class File(NamedTuple):
    """A Parquet file and the row groups to read (None: all)."""

    url: str
    groups: tuple[int, ...] | None = None


class RowGroups(NamedTuple):
    """Row groups of one file."""

    url: str
    footer: Footer
    groups: list[int]

    @property
    def num_rows(self) -> int:
        starts = self.footer.starts
        return sum(int(starts[group + 1] - starts[group]) for group in self.groups)


@dataclass(frozen=True)
class Scan:
    """The columns `schema` of all rows of `files`, in order. Implements `Chunks`.

    The first pass that reads the ids is shown to `watch`.
    """

    files: tuple[File, ...]
    schema: SchemaDict
    watch: IdWatch | None = None

    @classmethod
    def of(cls, urls: Sequence[str], *, schema: SchemaDict) -> "Scan":
        """Scan all rows of the files at `urls`, which must have the columns of `schema`."""
        return cls(tuple(File(url) for url in urls), schema)

    def frame(self) -> pl.LazyFrame:
        """Return all rows as one LazyFrame, prefetched by a few threads."""
        return _lazy(self._chunks, schema=self.schema, threads=self._threads)

    def only(self, columns: Sequence[str]) -> "Scan":
        return replace(self, schema=select_kinds(self.schema, columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        """Yield `work` of every chunk (several hundred thousand rows), computed in threads."""
        names = list(self.schema)
        yield from self.run_placed(functools.partial(with_ids, work, names=names))

    def run_placed(self, work: Callable[[pl.LazyFrame, Place], Result]) -> Iterator[Result]:
        """As `run`; `work` also gets the place of the chunk, with its ids where they are known."""
        if not self.files:
            yield work(pl.LazyFrame(schema=self.schema), Place(range(0)))
            return
        placed = with_places(self._chunks(), size=_num_rows)
        watch = self.watch if self.schema.keys() >= _IDS else None
        read_and_work = functools.partial(_work, work, self.schema, watch)
        results = map_bounded(read_and_work, placed, num_threads=self._threads)
        if watch is not None and watch.sequences is None:
            yield from watch.over(results)
        else:
            yield from (result for _, _, result in results)

    def preview(self, *, total: int | None = None) -> Preview:
        """Return the first rows of a row group in the middle of some of the files.

        `total` is the number of rows of all files; None: read it from their footers.
        """
        if total is None:
            total = sum(groups.num_rows for groups in self._row_groups(ROWS_PER_CHUNK))
        files = self.files[:: -(-len(self.files) // PREVIEWED_FILES) or 1]

        def source(
            columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            kinds = select_kinds(self.schema, columns)
            read = functools.partial(first_rows, schema=kinds)
            previews = map_bounded(read, files, num_threads=self._threads)
            yield from frames.filter_and_limit(previews, where=where, limit=limit)

        return Preview(total, register_io_source(source, schema=self.schema))

    def split(self, count: int) -> list["Scan"]:
        """Split the rows into at most `count` scans with about equally many files."""
        bounds = [len(self.files) * i // count for i in range(count + 1)]
        parts = (self.files[a:b] for a, b in itertools.pairwise(bounds))
        return [replace(self, files=part) for part in parts if part]

    @property
    def _is_local(self) -> bool:
        return all(storage.is_local(file.url) for file in self.files)

    @property
    def _threads(self) -> int:
        # One more than there are cores, because threads wait for the disk.
        return pl.thread_pool_size() + 1 if self._is_local else REMOTE_THREADS

    def _chunks(self) -> Iterator[list[RowGroups]]:
        """Yield the row groups of each chunk."""
        chunk: list[RowGroups] = []
        rows = 0
        most = ROWS_PER_CHUNK if self._is_local else REMOTE_ROWS_PER_CHUNK
        for groups in self._row_groups(most):
            if chunk and rows + groups.num_rows > most:
                yield chunk
                chunk, rows = [], 0
            chunk.append(groups)
            rows += groups.num_rows
        if chunk:
            yield chunk

    def _row_groups(self, most: int) -> Iterator[RowGroups]:
        """Yield consecutive row groups of one file with at most `most` rows, or one row group."""
        footers = map_bounded(footer_of_file, self.files, num_threads=self._threads)
        for file, footer in zip(self.files, footers, strict=True):
            frames.check_columns(footer, schema=self.schema, url=file.url)
            groups: list[int] = []
            rows = 0
            sizes = np.diff(footer.starts)
            for group in range(footer.num_groups) if file.groups is None else file.groups:
                if groups and rows + sizes[group] > most:
                    yield RowGroups(file.url, footer, groups)
                    groups, rows = [], 0
                groups.append(group)
                rows += int(sizes[group])
            if groups:
                yield RowGroups(file.url, footer, groups)


def map_bounded(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int
) -> Generator[Result, None, None]:
    """Map in order, in threads, with bounded memory."""
    # Results are large: at most one more than the threads compute.
    return ordered_map(function, items, num_threads=num_threads, budget=num_threads + 1)


def with_places(
    chunks: Iterable[Item], *, size: Callable[[Item], int]
) -> Iterator[tuple[Item, range]]:
    """Yield each chunk with the positions of its rows among all rows."""
    first = 0
    for chunk in chunks:
        place = range(first, first + size(chunk))
        yield chunk, place
        first = place.stop


def _num_rows(chunk: list[RowGroups]) -> int:
    return sum(groups.num_rows for groups in chunk)


def with_ids(
    work: Callable[[pl.LazyFrame], Result],
    rows: pl.LazyFrame,
    place: Place,
    *,
    names: Sequence[str],
) -> Result:
    """Return `work` of the columns `names` of a chunk."""
    return work(rows if place.runs is None else place.with_ids(rows).select(names))


def _work(
    work: Callable[[pl.LazyFrame, Place], Result],
    schema: SchemaDict,
    watch: IdWatch | None,
    chunk: tuple[list[RowGroups], range],
) -> tuple[range, Runs | None, Result]:
    """Return the positions of a chunk, its ids where they are known, and the result.

    Ids that are implied, or that an earlier pass has seen to be consecutive, are not read.
    """
    groups, positions = chunk
    runs = None
    if schema.keys() >= _IDS:
        runs = implied_runs(groups) or (watch.runs(positions) if watch is not None else None)
    # Read here rather than in polars' threads, which compute.
    stored = {name: kind for name, kind in schema.items() if runs is None or name not in _IDS}
    rows = read_chunk(groups, schema=stored)
    if runs is None and watch is not None and watch.sequences is None:
        runs = Runs.of(rows)
        if not runs.are_of(positions):
            return positions, runs, work(rows.lazy(), Place(positions))
        rows = rows.drop(_IDS)
    return positions, runs, work(rows.lazy(), Place(positions, runs))


def _lazy(
    chunks: Callable[[], Iterator[list[RowGroups]]], *, schema: SchemaDict, threads: int
) -> pl.LazyFrame:
    def source(
        columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        read = functools.partial(read_chunk, schema=select_kinds(schema, columns))
        batches = map_bounded(read, chunks(), num_threads=threads)
        with contextlib.closing(batches):
            yield from frames.filter_and_limit(batches, where=where, limit=limit)

    return register_io_source(source, schema=schema)


def select_kinds(schema: SchemaDict, columns: Sequence[str] | None) -> SchemaDict:
    """Return the schema of some columns (None: all)."""
    return {name: schema[name] for name in (schema if columns is None else columns)}


def footer_of_file(file: File) -> Footer:
    """Return the (cached) footer of a file."""
    return frames.footer_of(file.url)


def read_chunk(chunk: Sequence[RowGroups], *, schema: SchemaDict) -> pl.DataFrame:
    """Read row groups of several files."""
    tables = [read_groups(groups, schema=schema) for groups in chunk]
    return tables[0] if len(tables) == 1 else pl.concat(tables)


def read_groups(row_groups: RowGroups, *, schema: SchemaDict) -> pl.DataFrame:
    """Read row groups of one file; ids of dense files are not decoded."""
    if not schema:  # only the number of rows is needed
        return pl.DataFrame(height=row_groups.num_rows)
    url, footer, groups = row_groups
    runs = implied_runs([row_groups]) if _IDS & schema.keys() else None
    columns = {} if runs is None else runs.ids().to_dict()
    if stored := [name for name in schema if name not in columns]:
        table = parquet_file.read_groups(url, footer=footer, groups=groups, columns=stored)
        columns |= frames.from_arrow(table).to_dict()
    return pl.DataFrame([columns[name].cast(kind).alias(name) for name, kind in schema.items()])


def implied_runs(chunk: Sequence[RowGroups]) -> Runs | None:
    """Return the ids of row groups that are each a whole shard, without decoding them."""
    sizes: list[int] = []
    shard_ids: list[int] = []
    for _, footer, groups in chunk:
        if not frames.is_dense(footer):
            return None
        for group, size in zip(groups, np.diff(footer.starts)[groups].tolist(), strict=True):
            shard = parquet_file.min_and_max(footer, group=group, column=SHARD_ID) or (0, 0)
            row_bounds = parquet_file.min_and_max(footer, group=group, column=ROW) or (0, -1)
            if shard[0] != shard[1] or row_bounds != (0, size - 1):
                return None  # the file was rewritten
            shard_ids += [shard[0]] if size else []
            sizes += [size] if size else []
    first = np.array(shard_ids, np.uint64) << np.uint64(32)
    return Runs(first, first + np.array(sizes, np.uint64) - np.uint64(1), sum(sizes))


def first_rows(file: File, *, schema: SchemaDict) -> pl.DataFrame:
    """Read the first rows of the row group in the middle of a file."""
    footer = frames.footer_of(file.url)
    frames.check_columns(footer, schema=schema, url=file.url)
    groups = list(range(footer.num_groups)) if file.groups is None else list(file.groups)
    if not groups or not schema:
        return pl.DataFrame(schema=schema)
    table: pa.Table = parquet_file.first_rows(
        file.url,
        footer=footer,
        group=groups[len(groups) // 2],
        columns=list(schema),
        num_rows=PREVIEWED_ROWS,
    )
    return frames.from_arrow(table).cast(pl.Schema(schema))
