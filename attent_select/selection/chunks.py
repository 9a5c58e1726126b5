"""Rows of a catalog, processed a chunk at a time, in this process or on other machines.

One pass can leave a bit for each row, so that a later pass need not compute or read again what
decided about the row.

A selection runs the same function on every chunk and combines the small results. All results are
sums or extrema over chunks, so the selection does not depend on how the rows are divided.
"""

import bisect
import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

Item = TypeVar("Item")
Result = TypeVar("Result")
Transform = Callable[[pl.LazyFrame], pl.LazyFrame]

_CHUNK_ROWS: Final = 1 << 18
# Rows of a bitmap: 256 MiB. Larger catalogs are computed and read once more instead.
_MAX_BITS: Final = 1 << 31


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


class Bitmap:
    """One bit per row, in the chunks in which they were added."""

    def __init__(self) -> None:
        self._starts = [0]
        # polars packs booleans: one bit each.
        self._chunks: list[pl.Series] = []

    def add(self, marks: pl.Series) -> None:
        """Append the bool of the next rows; beyond the limit, drop all."""
        self._starts.append(self._starts[-1] + len(marks))
        if self.is_complete:
            self._chunks.append(marks)
        else:
            self._starts, self._chunks = [0, self._starts[-1]], []

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1]

    @property
    def is_complete(self) -> bool:
        """Whether there are few enough rows that their bits were kept."""
        return len(self) <= _MAX_BITS

    def clear(self, positions: npt.NDArray[np.uint64]) -> None:
        """Clear the bits of the rows at these positions, which ascend."""
        bounds = np.searchsorted(positions, np.array(self._starts, np.uint64))
        for i, (chunk, start) in enumerate(zip(self._chunks, self._starts, strict=False)):
            inside = positions[bounds[i] : bounds[i + 1]] - np.uint64(start)
            self._chunks[i] = chunk.scatter(inside, False)

    def mask(self, rows: range) -> pl.Series:
        """Return bool[n], the bits of consecutive rows."""
        first = bisect.bisect_right(self._starts, rows.start) - 1
        end = max(first + 1, bisect.bisect_left(self._starts, rows.stop))
        bits = pl.concat(self._chunks[first:end]) if rows else pl.Series(dtype=pl.Boolean)
        return bits.slice(rows.start - self._starts[first], len(rows))


@runtime_checkable
class PlacedChunks(Protocol):
    """Chunks that know the position of their rows among all rows."""

    def only(self, columns: Sequence[str]) -> "PlacedChunks":
        """As `Chunks.only`."""
        ...

    def run_placed(self, work: Callable[[pl.LazyFrame, range], Result]) -> Iterable[Result]:
        """As `Chunks.run`; `work` also gets the positions of the chunk's rows."""
        ...


@dataclass(frozen=True)
class MarkedChunks:
    """Rows of `chunks` with a column for each bitmap, after `finish`. Implements `Chunks`.

    Attributes:
        chunks: all rows of a catalog, with the columns that `finish` needs.
        marks: column → bitmap.
        finish: transformation of the marked rows.
        unmarked: the same rows, computed without the marks; for use as one LazyFrame.
    """

    chunks: PlacedChunks
    marks: Mapping[str, Bitmap]
    finish: Transform
    unmarked: Chunks

    def frame(self) -> pl.LazyFrame:
        return self.unmarked.frame()

    def only(self, columns: Sequence[str]) -> MappedChunks:
        return MappedChunks(self, partial(_select_columns, columns=columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        return self.chunks.run_placed(partial(_finish_marked, self, work))


def _finish_marked(
    chunks: MarkedChunks, work: Callable[[pl.LazyFrame], Any], rows: pl.LazyFrame, place: range
) -> Any:
    marks = [bitmap.mask(place).alias(name) for name, bitmap in chunks.marks.items()]
    return work(chunks.finish(rows.with_columns(marks)))


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
