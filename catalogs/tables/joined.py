"""Joined scan: dense tables side by side, aligned by shard.

Losses and annotations of one corpus have the same rows in the same order, with one row group per
shard. So they are joined by reading the row groups of a shard together; nothing is searched.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import polars as pl
from polars.io.plugins import register_io_source

from attent_select import schema
from attent_select.errors import InputError
from attent_select.selection.chunks import Place
from attent_select.selection.select import Preview
from catalogs import storage
from catalogs.tables import frames, scan
from catalogs.tables.frames import SchemaDict
from catalogs.tables.scan import File, RowGroups, Scan

Result = TypeVar("Result")

_ID_NAMES = (schema.SHARD_ID, schema.ROW)
_ID_KINDS: SchemaDict = dict.fromkeys(_ID_NAMES, pl.UInt32)


@dataclass(frozen=True)
class JoinedTable:
    """A dense table and its columns in the join: name → stored name. Ids are not among them."""

    rows: Scan
    columns: Mapping[str, str]

    def only(self, names: Sequence[str]) -> "JoinedTable":
        columns = {name: stored for name, stored in self.columns.items() if name in names}
        return replace(self, columns=columns)

    def first(self, num_shards: int) -> "JoinedTable":
        """Return the rows of the first shards."""
        if num_shards >= len(self.shards):
            return self
        files = _merge_groups(self.shards[:num_shards])
        return replace(self, rows=replace(self.rows, files=files))

    @property
    def kinds(self) -> SchemaDict:
        return {name: self.rows.schema[stored] for name, stored in self.columns.items()}

    @property
    def stored_kinds(self) -> SchemaDict:
        """Stored column → dtype, ids first."""
        return _ID_KINDS | {stored: self.rows.schema[stored] for stored in self.columns.values()}

    @functools.cached_property
    def shards(self) -> list[File]:
        """The row group of every shard, in order."""
        groups = ((file.url, file.groups) for file in self.rows.files)
        return [File(url, (group,)) for url, numbers in groups for group in numbers or ()]

    def columns_of(self, stored: pl.DataFrame) -> pl.DataFrame:
        """Return the columns of the join, without ids."""
        return stored.select(pl.col(column).alias(name) for name, column in self.columns.items())


@dataclass(frozen=True)
class JoinedScan:
    """Rows of several dense tables of one corpus side by side. Implements `Chunks`.

    `tables` have the same shards; their scans name the row groups of every file. `names` are the
    columns in order, ids included.
    """

    tables: tuple[JoinedTable, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, tables: Sequence[JoinedTable]) -> "JoinedScan":
        """Join tables.

        Raises:
            InputError: two of them have a column of the same name, or another number of shards.
        """
        names = [*_ID_NAMES, *(name for table in tables for name in table.columns)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"the column {min(twice)} is in two tables: rename the annotation")
        if len(counts := sorted({len(table.shards) for table in tables})) > 1:
            raise InputError(
                f"tables of {counts[0]} and of {counts[-1]} shards cannot be joined: expected"
                " losses and annotations of the same corpus"
            )
        return cls(tuple(tables), tuple(names))

    @property
    def schema(self) -> SchemaDict:
        kinds = dict(_ID_KINDS)
        for table in self.tables:
            kinds |= table.kinds
        return {name: kinds[name] for name in self.names}

    @property
    def files(self) -> tuple[File, ...]:
        """The files of all tables."""
        return tuple(file for table in self.tables for file in table.rows.files)

    def frame(self) -> pl.LazyFrame:
        """Return all rows as one LazyFrame, prefetched by a few threads."""
        return self._source(JoinedScan._batches)

    def only(self, columns: Sequence[str]) -> "JoinedScan":
        needed = [table.only(columns) for table in self.tables]
        # Any table has the ids.
        kept = [table for table in needed if table.columns] or needed[:1]
        return JoinedScan(tuple(kept), tuple(columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        """Yield `work` of every chunk (several hundred thousand rows), computed in threads."""
        yield from self.run_placed(functools.partial(scan.with_ids, work, names=self.names))

    def run_placed(self, work: Callable[[pl.LazyFrame, Place], Result]) -> Iterator[Result]:
        """As `run`; `work` also gets the place of the chunk."""
        if not self.tables[0].shards:
            yield work(pl.LazyFrame(schema=self.schema), Place(range(0)))
            return
        read_and_work = functools.partial(_work, work, self)
        placed = scan.with_places(self._chunks(), size=_num_rows)
        yield from scan.map_bounded(read_and_work, placed, num_threads=self._threads)

    def preview(self, *, total: int) -> Preview:
        """Return the first rows of some of the shards; `total` is the number of all rows."""
        return Preview(total, self._source(JoinedScan._first_rows))

    def split(self, count: int) -> list["JoinedScan"]:
        """Split the rows into at most `count` scans with about equally many shards."""
        num_shards = len(self.tables[0].shards)
        bounds = [num_shards * i // count for i in range(count + 1)]
        return [self._shards(slice(a, b)) for a, b in itertools.pairwise(bounds) if a < b]

    def of_shards(self, shard_ids: Sequence[int]) -> "JoinedScan":
        """Return the rows of some shards of a corpus that all are in the tables, ids ascending."""
        return self._only([[table.shards[number] for number in shard_ids] for table in self.tables])

    def read(self, chunk: Sequence[list[RowGroups]]) -> pl.DataFrame:
        """Read the row groups of consecutive shards, a list for each table."""
        pairs = zip(self.tables, chunk, strict=True)
        return self._join([scan.read_chunk(g, schema=t.stored_kinds) for t, g in pairs])

    @property
    def _is_local(self) -> bool:
        return all(storage.is_local(file.url) for file in self.files)

    @property
    def _threads(self) -> int:
        return pl.thread_pool_size() + 1 if self._is_local else scan.REMOTE_THREADS

    def _shards(self, part: slice) -> "JoinedScan":
        return self._only([table.shards[part] for table in self.tables])

    def _only(self, shards: Sequence[Sequence[File]]) -> "JoinedScan":
        """Return the rows of some shards: the row groups of each, a sequence for each table."""
        tables = (
            replace(table, rows=replace(table.rows, files=_merge_groups(files)))
            for table, files in zip(self.tables, shards, strict=True)
        )
        return replace(self, tables=tuple(tables))

    def _source(self, batches: Callable[["JoinedScan"], Iterator[pl.DataFrame]]) -> pl.LazyFrame:
        def source(
            columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            needed = self if columns is None else self.only(columns)
            with contextlib.closing(batches(needed)) as frames_of_chunks:  # type: ignore[type-var]
                yield from frames.filter_and_limit(frames_of_chunks, where=where, limit=limit)

        return register_io_source(source, schema=self.schema)

    def _batches(self) -> Iterator[pl.DataFrame]:
        return scan.map_bounded(self.read, self._chunks(), num_threads=self._threads)

    def _first_rows(self) -> Iterator[pl.DataFrame]:
        every = -(-len(self.tables[0].shards) // scan.PREVIEWED_FILES) or 1
        shards = zip(*(table.shards[::every] for table in self.tables), strict=True)

        def read(files: tuple[File, ...]) -> pl.DataFrame:
            pairs = zip(self.tables, files, strict=True)
            return self._join([scan.first_rows(f, schema=t.stored_kinds) for t, f in pairs])

        return scan.map_bounded(read, shards, num_threads=self._threads)

    def _chunks(self) -> Iterator[list[list[RowGroups]]]:
        """Yield the row groups of consecutive shards for every table."""
        most = scan.ROWS_PER_CHUNK if self._is_local else scan.REMOTE_ROWS_PER_CHUNK
        chunk: list[tuple[RowGroups, ...]] = []
        num_rows = 0
        tables = (_row_groups(table, num_threads=self._threads) for table in self.tables)
        for shard in zip(*tables, strict=True):
            size = shard[0].num_rows
            if chunk and num_rows + size > most:
                yield [_by_file(groups) for groups in zip(*chunk, strict=True)]
                chunk, num_rows = [], 0
            chunk.append(shard)
            num_rows += size
        if chunk:
            yield [_by_file(groups) for groups in zip(*chunk, strict=True)]

    def _join(self, stored: Sequence[pl.DataFrame]) -> pl.DataFrame:
        ids = stored[0].select(_ID_NAMES)
        for table, frame in zip(self.tables[1:], stored[1:], strict=True):
            if not ids.equals(frame.select(_ID_NAMES)):
                first = ids.row(0) if len(ids) else None
                raise InputError(
                    f"{table.rows.files[0].url} and the table beside it have different rows near"
                    f" (shard, row) {first}: a part was changed. Restore it, or make it again"
                )
        columns = [t.columns_of(frame) for t, frame in zip(self.tables, stored, strict=True)]
        return pl.concat([ids, *columns], how="horizontal").select(self.names)


AnyScan = Scan | JoinedScan


def _num_rows(chunk: Sequence[list[RowGroups]]) -> int:
    return sum(groups.num_rows for groups in chunk[0])


def _work(
    work: Callable[[pl.LazyFrame, Place], Result],
    joined: JoinedScan,
    chunk: tuple[Sequence[list[RowGroups]], range],
) -> Result:
    return work(joined.read(chunk[0]).lazy(), Place(chunk[1]))


def _row_groups(table: JoinedTable, *, num_threads: int) -> Iterator[RowGroups]:
    """Yield the row group of every shard, with its file's footer."""
    footers = scan.map_bounded(scan.footer_of_file, table.rows.files, num_threads=num_threads)
    for file, footer in zip(table.rows.files, footers, strict=True):
        frames.check_columns(footer, schema=table.stored_kinds, url=file.url)
        for group in file.groups or ():
            yield RowGroups(file.url, footer, [group])


def _by_file(shards: Sequence[RowGroups]) -> list[RowGroups]:
    """Join consecutive row groups of one file, which are read together."""
    joined = []
    for _, same in itertools.groupby(shards, key=lambda shard: shard.url):
        groups = list(same)
        numbers = [number for each in groups for number in each.groups]
        joined.append(RowGroups(groups[0].url, groups[0].footer, numbers))
    return joined


def _merge_groups(shards: Sequence[File]) -> tuple[File, ...]:
    files = []
    for url, same in itertools.groupby(shards, key=lambda shard: shard.url):
        files.append(File(url, tuple(group for shard in same for group in shard.groups or ())))
    return tuple(files)
