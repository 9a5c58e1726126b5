"""Many Parquet files as one table: as a LazyFrame, piece by piece, or a few rows to guess from.

Which row groups are read together, by whom, and how far ahead. pyarrow reads: it decodes our
encodings in half the time that polars takes.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from attent_select.schema import ROW, SHARD_ID
from attent_select.selection.select import Preview
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.tables import frames, parquet_file
from catalogs.tables.frames import SchemaDict
from catalogs.tables.parquet_file import Footer

Item = TypeVar("Item")
Result = TypeVar("Result")

# Row groups that follow each other are read together until they have so many rows: enough that
# planning a query for each piece does not count.
_ROWS_PER_PIECE = 1 << 20
# A preview takes so many rows of so many files: a million in all.
_PREVIEWED_FILES = 128
_PREVIEWED_ROWS = 1 << 13
# Threads that wait for storage most of the time; each holds a piece, so theirs are smaller.
_REMOTE_THREADS = 16
_REMOTE_ROWS_PER_PIECE = 1 << 18


class File(NamedTuple):
    """A Parquet file, and which of its row groups count (None: all)."""

    url: str
    groups: tuple[int, ...] | None = None


class _Chunk(NamedTuple):
    """Row groups of one file."""

    url: str
    footer: Footer
    groups: list[int]

    @property
    def num_rows(self) -> int:
        return int(np.diff(self.footer.starts)[self.groups].sum())


@dataclass(frozen=True)
class Scan:
    """The columns `schema` of all rows of `files`, in order. Implements `Chunks`."""

    files: tuple[File, ...]
    schema: SchemaDict

    @classmethod
    def of(cls, urls: Sequence[str], *, schema: SchemaDict) -> "Scan":
        """All rows of the files at `urls`, which must have at least the columns of `schema`."""
        return cls(tuple(File(url) for url in urls), schema)

    def frame(self) -> pl.LazyFrame:
        """All rows in one, read ahead by a few threads."""
        return _lazy(_Again(self._pieces), schema=self.schema, threads=self._threads)

    def only(self, columns: Sequence[str]) -> "Scan":
        return replace(self, schema=_kinds(self.schema, columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        """`work` of every piece, some hundred thousand rows each, in threads."""
        if not self.files:
            yield work(pl.LazyFrame(schema=self.schema))
            return
        read_and_work = functools.partial(_work, work, self.schema)
        yield from _map(read_and_work, self._pieces(), num_threads=self._threads)

    def preview(self, *, total: int | None = None) -> Preview:
        """The first rows of a row group in the middle of some of the files.

        `total` is the number of rows of all files; read from their footers where it is not known.
        """
        if total is None:
            total = sum(chunk.num_rows for chunk in self._chunks(_ROWS_PER_PIECE))
        some = self.files[:: -(-len(self.files) // _PREVIEWED_FILES) or 1]

        def source(
            columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            kinds = _kinds(self.schema, columns)
            read = functools.partial(_first_rows, schema=kinds)
            found = _map(read, some, num_threads=self._threads)
            yield from frames.filter_and_limit(found, where=where, limit=limit)

        return Preview(total, register_io_source(source, schema=self.schema))

    def split(self, count: int) -> list["Scan"]:
        """The same rows as at most `count` scans of about as many files each."""
        bounds = [len(self.files) * i // count for i in range(count + 1)]
        parts = (self.files[a:b] for a, b in itertools.pairwise(bounds))
        return [replace(self, files=part) for part in parts if part]

    @property
    def _is_local(self) -> bool:
        return all(storage.is_local(file.url) for file in self.files)

    @property
    def _threads(self) -> int:
        # One more than there are cores: it waits for the disk.
        return pl.thread_pool_size() + 1 if self._is_local else _REMOTE_THREADS

    def _pieces(self) -> Iterator[list[_Chunk]]:
        piece: list[_Chunk] = []
        rows = 0
        most = _ROWS_PER_PIECE if self._is_local else _REMOTE_ROWS_PER_PIECE
        for chunk in self._chunks(most):
            if piece and rows + chunk.num_rows > most:
                yield piece
                piece, rows = [], 0
            piece.append(chunk)
            rows += chunk.num_rows
        if piece:
            yield piece

    def _chunks(self, most: int) -> Iterator[_Chunk]:
        footers = _map(_footer, self.files, num_threads=self._threads)
        for file, footer in zip(self.files, footers, strict=True):
            frames.check_columns(footer, schema=self.schema, url=file.url)
            groups: list[int] = []
            rows = 0
            sizes = np.diff(footer.starts)
            for group in range(footer.num_groups) if file.groups is None else file.groups:
                if groups and rows + sizes[group] > most:
                    yield _Chunk(file.url, footer, groups)
                    groups, rows = [], 0
                groups.append(group)
                rows += int(sizes[group])
            if groups:
                yield _Chunk(file.url, footer, groups)


@dataclass(frozen=True)
class _Again:
    """What a generator function yields, as often as somebody asks."""

    generate: Callable[[], Iterator[list[_Chunk]]]

    def __iter__(self) -> Iterator[list[_Chunk]]:
        return self.generate()


def _map(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int
) -> Generator[Result, None, None]:
    # Results are large: at most one waits while all threads work.
    return ordered_map(function, items, num_threads=num_threads, budget=num_threads + 1)


def _work(
    work: Callable[[pl.LazyFrame], Result], schema: SchemaDict, piece: list[_Chunk]
) -> Result:
    # Read before polars has it: its own threads are for computing.
    return work(_read(piece, schema=schema).lazy())


def _lazy(chunks: Iterable[list[_Chunk]], *, schema: SchemaDict, threads: int) -> pl.LazyFrame:
    def source(
        columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        read = functools.partial(_read, schema=_kinds(schema, columns))
        found = _map(read, chunks, num_threads=threads)
        with contextlib.closing(found):
            yield from frames.filter_and_limit(found, where=where, limit=limit)

    return register_io_source(source, schema=schema)


def _kinds(schema: SchemaDict, columns: Sequence[str] | None) -> SchemaDict:
    return {name: schema[name] for name in (schema if columns is None else columns)}


def _footer(file: File) -> Footer:
    return frames.footer_of(file.url)


def _read(piece: Sequence[_Chunk], *, schema: SchemaDict) -> pl.DataFrame:
    found = [_read_chunk(chunk, schema=schema) for chunk in piece]
    return found[0] if len(found) == 1 else pl.concat(found)


def _read_chunk(chunk: _Chunk, *, schema: SchemaDict) -> pl.DataFrame:
    if not schema:  # nothing but the number of rows is wanted
        return pl.DataFrame(height=chunk.num_rows)
    url, footer, groups = chunk
    told = _told(chunk) if frames.is_dense(footer) else {}
    stored = [name for name in schema if name not in told]
    columns = {name: told[name]() for name in schema if name in told}
    if stored:
        table = parquet_file.read_groups(url, footer=footer, groups=groups, columns=stored)
        columns |= frames.from_arrow(table).to_dict()
    return pl.DataFrame([columns[name].cast(kind).alias(name) for name, kind in schema.items()])


def _told(chunk: _Chunk) -> dict[str, Callable[[], pl.Series]]:
    """The ids of row groups that are each a whole shard: nothing needs to be decoded."""
    sizes = np.diff(chunk.footer.starts)[chunk.groups].tolist()
    shard_ids = []
    for group, size in zip(chunk.groups, sizes, strict=True):
        shard = parquet_file.min_and_max(chunk.footer, group=group, column=SHARD_ID) or (0, 0)
        rows_in = parquet_file.min_and_max(chunk.footer, group=group, column=ROW) or (0, -1)
        if shard[0] != shard[1] or rows_in != (0, size - 1):
            return {}  # not as we wrote it
        shard_ids.append(shard[0])

    def shards() -> pl.Series:
        pairs = zip(shard_ids, sizes, strict=True)
        found = [pl.Series([id_], dtype=pl.UInt32).new_from_index(0, size) for id_, size in pairs]
        return pl.concat(found).alias(SHARD_ID)

    def rows() -> pl.Series:
        return pl.concat([pl.int_range(size, dtype=pl.UInt32, eager=True) for size in sizes])

    return {SHARD_ID: shards, ROW: rows}


def _first_rows(file: File, *, schema: SchemaDict) -> pl.DataFrame:
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
        num_rows=_PREVIEWED_ROWS,
    )
    return frames.from_arrow(table).cast(pl.Schema(schema))
