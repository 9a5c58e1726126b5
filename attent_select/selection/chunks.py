"""The rows of a catalog, here or in chunks on other machines.

What the search for a cut needs of them: to do the same work on every chunk and to get the small
results. Everything that is found is a sum over chunks, so the answer is the same however the
rows are cut.
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

_BATCH_ROWS: Final = 1 << 18


class Chunks(Protocol):
    """A LazyFrame that may be cut into several."""

    def frame(self) -> pl.LazyFrame:
        """All rows in one."""
        ...

    def only(self, columns: Sequence[str]) -> "Chunks":
        """The same rows with only these columns: what is not needed is not read."""
        ...

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        """`work` of every chunk, in the order of the rows; at least one, perhaps without rows.

        A chunk fits in memory. `work` can be pickled, and its results are small.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """A LazyFrame of any kind; `work` gets it in batches as they stream by, in threads."""

    rows: pl.LazyFrame

    def frame(self) -> pl.LazyFrame:
        return self.rows

    def only(self, columns: Sequence[str]) -> "Whole":
        return Whole(self.rows.select(columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        stream = self.rows.collect_batches(
            chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming"
        )
        batches = (batch.lazy() for batch in stream)
        # Without any row there is still an answer.
        first = next(batches, pl.LazyFrame(schema=self.rows.collect_schema()))
        yield from map_in_threads(work, chain([first], batches), num_threads=pl.thread_pool_size())


@dataclass(frozen=True)
class Mapped:
    """Chunks after a transformation that looks at each row by itself."""

    chunks: Chunks
    transform: Transform

    def frame(self) -> pl.LazyFrame:
        return self.transform(self.chunks.frame())

    def only(self, columns: Sequence[str]) -> "Mapped":
        return Mapped(self, partial(_select, columns=columns))

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        return self.chunks.run(Then(self.transform, work))


def _select(rows: pl.LazyFrame, *, columns: Sequence[str]) -> pl.LazyFrame:
    return rows.select(columns)


@dataclass(frozen=True)
class Then:
    """One function after the other; unlike a lambda it can be pickled."""

    first: Callable[[Any], Any]
    second: Callable[[Any], Any]

    def __call__(self, rows: Any) -> Any:
        return self.second(self.first(rows))


def map_in_threads(
    work: Callable[[Item], Result], items: Iterator[Item], *, num_threads: int
) -> Generator[Result]:
    """`work` of every item, in order, by threads that are at most as many items ahead.

    An exception is raised where its result would have come; what is running then still ends.
    """
    if num_threads == 1:
        yield from map(work, items)
        return
    ahead: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="attent-chunks")
    try:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # One of the pool's own threads may be who collects a generator that nobody finished.
        with contextlib.suppress(RuntimeError):
            pool.shutdown(cancel_futures=True)
