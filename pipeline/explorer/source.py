"""What is explored: a run or a corpus, the columns of its samples, and bounded scans of them."""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS, NUM_UNITS, ROW, SHARD_ID
from attent_select.selection.chunks import FrameChunks
from attent_select.sql_expression import unknown_column
from catalogs import Corpus, LossCatalog, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.annotations.record import Annotation
from catalogs.corpus import manifest_of
from catalogs.losses import pools
from catalogs.tables.joined import JoinedScan, JoinedTable
from pipeline.reports.query import losses as newest_losses
from pipeline.reports.query import selected_rounds

Result = TypeVar("Result")

# Rows that one query reads at most; of a larger corpus, whole shards are drawn at random.
MAX_ROWS: Final = 100_000_000
# Rows that show the range and the categories of a column.
_PREVIEW_ROWS: Final = 1_000_000
# Columns of losses that only this project reads.
_HIDDEN: Final = frozenset({SHARD_ID, ROW})


@dataclass(frozen=True)
class Column:
    """A column of the samples: `kind` is number or category, `origin` losses or annotation."""

    name: str
    kind: str
    origin: str
    title: str = ""
    is_integer: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows to read: all of a corpus, or those of some shards, which then are a sample."""

    chunks: JoinedScan | FrameChunks
    num_rows: int
    total: int

    @property
    def facts(self) -> dict[str, Any]:
        """What an answer says about the rows that it was computed from."""
        return {"rows": self.num_rows, "total": self.total, "is_sample": self.num_rows < self.total}


@dataclass(frozen=True)
class Source:
    """A run or a corpus, as it was when it was opened.

    Attributes:
        url: of the run or corpus.
        corpus: its samples.
        rounds: rounds with losses of every sample, ascending.
        pool_rounds: rounds with losses of their candidates alone.
        indexes: rounds that were selected.
        annotations: its annotations, with their columns.
        tables: dense tables with the columns that can be read.
        max_rows: rows that one query reads at most.
    """

    url: str
    corpus: Corpus
    rounds: tuple[int, ...]
    pool_rounds: tuple[int, ...]
    indexes: tuple[int, ...]
    annotations: AnnotationColumns
    tables: tuple[JoinedTable, ...]
    etag: str
    max_rows: int = MAX_ROWS
    # Column → what a preview says about it, kept between queries.
    axes: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, url: str, *, max_rows: int = MAX_ROWS) -> "Source":
        """Open the run or corpus at `url`.

        Raises:
            MissingError: there is none.
            InputError: it is damaged.
        """
        url = storage.normalise(url).rstrip("/")
        etag = manifest_of(url)[1]
        catalog = LossCatalog(url)
        rounds = tuple(catalog.rounds())
        pool_rounds = () if rounds else tuple(pools.pool_rounds(url))
        annotations = AnnotationColumns.of(url)
        return cls(
            url=url,
            corpus=catalog.corpus,
            rounds=rounds,
            pool_rounds=pool_rounds,
            indexes=tuple(selected_rounds(url)),
            annotations=annotations,
            tables=tuple(_tables(catalog, rounds, annotations)),
            etag=etag,
            max_rows=max_rows,
        )

    @property
    def is_changed(self) -> bool:
        """Whether the manifest is another one than that which was opened, or was deleted."""
        try:
            return manifest_of(self.url)[1] != self.etag
        except FileNotFoundError:
            return True

    @functools.cached_property
    def kinds(self) -> pl.Schema:
        """Column → dtype, ids first."""
        ids = {SHARD_ID: pl.UInt32(), ROW: pl.UInt32()}
        kinds = {name: dtype for table in self.tables for name, dtype in table.kinds.items()}
        if self.pool_rounds:
            kinds = dict(self._pool_frame.collect_schema())
        return pl.Schema(ids | kinds)

    @functools.cached_property
    def columns(self) -> dict[str, Column]:
        """The columns that can be shown, by name."""
        columns = {}
        for name, dtype in self.kinds.items():
            is_number = dtype.is_numeric()
            if name in _HIDDEN or not (is_number or dtype in (pl.String, pl.Boolean)):
                continue
            record = self.record_of(name)
            columns[name] = Column(
                name,
                "number" if is_number else "category",
                "annotation" if record else "losses",
                f"annotation of kind {record.kind}" if record else _title(name),
                dtype.is_integer(),
            )
        return columns

    def record_of(self, column: str) -> Annotation | None:
        """Return the annotation that has a column; None for a column of the losses."""
        return next((r for r, names in self.annotations.annotations if column in names), None)

    def round_columns(self) -> list[str]:
        """Return the columns with the losses of all rounds, oldest first."""
        return [LOSS if number == self.rounds[-1] else f"loss_round_{number}"
                for number in self.rounds]  # fmt: skip

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise `InputError` for a column that the samples do not have."""
        for name in names:
            if name not in self.kinds:
                raise InputError(unknown_column(name, list(self.columns) or ["no columns"]))

    def read(
        self, names: Sequence[str], *, max_rows: int | None = None, shards: range | None = None
    ) -> Rows:
        """Return the rows with the ids and `names`: all, or those of random shards if too many.

        With `shards`, those of these shards, however many they are.
        """
        self.check_columns(names)
        needed = list(dict.fromkeys([SHARD_ID, ROW, *names]))
        if self.pool_rounds:
            frame = self._pool_frame.select(needed)
            count = int(frame.select(pl.col(ROW).is_not_null().sum()).collect().item())
            return Rows(FrameChunks(frame), count, self.corpus.num_samples)
        if not self.tables:
            return Rows(FrameChunks(self.corpus.rows()), *[self.corpus.num_samples] * 2)
        tables = [table.only(names) for table in self.tables]
        tables = [table for table in tables if table.columns] or [self.tables[0].only([])]
        num_shards = min(len(table.shards) for table in tables)
        joined = JoinedScan.of([table.first(num_shards) for table in tables]).only(needed)
        sizes = self.corpus.shard_rows[:num_shards]
        if shards is not None:
            shard_ids = np.arange(num_shards)[shards.start : shards.stop]
        elif int(sizes.sum()) > (limit := max_rows or self.max_rows):
            drawn = np.random.default_rng(0).permutation(num_shards)
            count = max(1, int(np.searchsorted(np.cumsum(sizes[drawn]), limit, side="right")))
            shard_ids = np.sort(drawn[:count])
        else:
            return Rows(joined, int(sizes.sum()), self.corpus.num_samples)
        num_rows = int(sizes[shard_ids].sum())
        return Rows(joined.of_shards(shard_ids.tolist()), num_rows, self.corpus.num_samples)

    def preview(self, names: Sequence[str]) -> pl.DataFrame:
        """Return about a million rows of some columns, from many shards."""
        rows = self.read(names, max_rows=None if self.pool_rounds else self.max_rows)
        if isinstance(rows.chunks, FrameChunks):
            return rows.chunks.frame().select(names).head(_PREVIEW_ROWS).collect()
        return rows.chunks.preview(total=rows.num_rows).rows.select(names).collect()

    @functools.cached_property
    def _pool_frame(self) -> pl.LazyFrame:
        """The newest losses of all candidates, with the columns of the annotations."""
        frame = newest_losses(self.url)
        if not self.annotations.annotations:
            return frame
        joined = self.annotations.join(None).frame()
        taken = set(frame.collect_schema()) - _HIDDEN
        names = [name for name in joined.collect_schema() if name not in taken]
        return frame.join(joined.select(names), on=[SHARD_ID, ROW], how="left")


class AbandonedError(InputError):
    """The page does not wait for the answer of a query any more."""


# Set while a query is answered; the event says that the page does not wait for it.
abandoned: ContextVar[threading.Event | None] = ContextVar("abandoned", default=None)


def run_chunks(rows: Rows, work: Callable[[pl.DataFrame], Result]) -> Iterator[Result]:
    """Yield `work` of every chunk of rows.

    Raises:
        AbandonedError: `abandoned` was set in the meantime.
    """
    event = abandoned.get()
    for result in rows.chunks.run(functools.partial(_collect_and_work, work)):
        if event is not None and event.is_set():
            raise AbandonedError("the page does not wait for the answer")
        yield result


def _collect_and_work(work: Callable[[pl.DataFrame], Result], rows: pl.LazyFrame) -> Result:
    return work(rows.collect(engine="in-memory"))


def _tables(
    catalog: LossCatalog, rounds: Sequence[int], annotations: AnnotationColumns
) -> Iterator[JoinedTable]:
    """Yield the newest losses, the losses of earlier rounds, and the annotations."""
    taken = {SHARD_ID, ROW, *annotations.names}
    if rounds:
        losses = catalog.scan()
        yield JoinedTable(losses, {name: name for name in losses.schema if name not in taken})
        for number in rounds[:-1]:
            yield JoinedTable(catalog.scan(number), {f"loss_round_{number}": LOSS})
    for record, names in annotations.annotations:
        yield JoinedTable(annotations.store.scan(record), names)


def _title(name: str) -> str:
    if name.startswith("loss_round_"):
        return f"loss in nats, as of round {name.rpartition('_')[2]}"
    return {LOSS: "newest loss, in nats", NUM_UNITS: "counted units (tokens, pixels)"}.get(name, "")
