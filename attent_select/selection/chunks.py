"""Rows of a catalog, processed a chunk at a time, in this process or on other machines.

A selection runs the same function on every chunk and combines the small results. All results are
sums or extrema over chunks, so the selection does not depend on how the rows are divided.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol, TypeVar

import polars as pl

Item = TypeVar("Item")
Result = TypeVar("Result")
Transform = Callable[[pl.LazyFrame], pl.LazyFrame]

_CHUNK_ROWS: Final = 1 << 18


class Chunks(Protocol):
    """A table whose rows can be processed in chunks."""

    def frame(self) -> pl.LazyFrame:
        """Return all rows as one LazyFrame."""
        ...

    def only(self, columns: Sequence[str]) -> "Chunks":
        """Return the same rows with only these columns; the others are not read."""
        ...

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        """Apply `work` to every chunk and yield the results in row order.

        There is at least one chunk, possibly without rows. A chunk fits in memory. `work` can be
        pickled, and its results are small.
        """
        ...


@dataclass(frozen=True)
class FrameChunks:
    """Chunks of any LazyFrame, streamed and processed in threads."""

    rows: pl.LazyFrame

    def frame(self) -> pl.LazyFrame:
        return self.rows

    def only(self, columns: Sequence[str]) -> "FrameChunks":
        return FrameChunks(self.rows.select(columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        stream = self.rows.collect_batches(
            chunk_size=_CHUNK_ROWS, maintain_order=True, engine="streaming"
        )
        chunks = (chunk.lazy() for chunk in stream)
        # An empty table is one empty chunk, so that there is always a result.
        first = next(chunks, pl.LazyFrame(schema=self.rows.collect_schema()))
        yield from map_in_threads(work, chain([first], chunks), num_threads=pl.thread_pool_size())


@dataclass(frozen=True)
class MappedChunks:
    """Chunks after a transformation that treats each row by itself."""

    chunks: Chunks
    transform: Transform

    def frame(self) -> pl.LazyFrame:
        return self.transform(self.chunks.frame())

    def only(self, columns: Sequence[str]) -> "MappedChunks":
        return MappedChunks(self, partial(_select_columns, columns=columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        return self.chunks.run(FunctionChain(self.transform, work))


def _select_columns(rows: pl.LazyFrame, *, columns: Sequence[str]) -> pl.LazyFrame:
    return rows.select(columns)


@dataclass(frozen=True)
class FunctionChain:
    """`second(first(rows))`; unlike a lambda it can be pickled."""

    first: Callable[[Any], Any]
    second: Callable[[Any], Any]

    def __call__(self, rows: Any) -> Any:
        return self.second(self.first(rows))


def map_in_threads(
    work: Callable[[Item], Result], items: Iterator[Item], *, num_threads: int
) -> Generator[Result]:
    """Map `work` over `items` in order, in threads, at most `num_threads` items ahead.

    An exception is raised in place of its result; calls that are already running still finish.
    """
    if num_threads == 1:
        yield from map(work, items)
        return
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="attent-chunks")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # An unfinished generator may be garbage-collected in one of the pool's own threads, which
        # cannot join itself.
        with contextlib.suppress(RuntimeError):
            pool.shutdown(cancel_futures=True)
