"""The rows of a catalog, here or in pieces on other machines.

Here: what the search for a cut needs of them: to do the same work on every piece and to get the
small results. Not here: the work (`top_m.py`, `radix.py`, `eligibility.py`) or pieces on a cluster
(`pipeline/cluster_pieces.py`). Everything that is found is a sum over pieces, so the answer is the
same however the rows are cut.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import polars as pl

Result = TypeVar("Result")
Transform = Callable[[pl.LazyFrame], pl.LazyFrame]

# Rows of a batch that Python looks at.
_BATCH_ROWS: Final = 1 << 18


class Pieces(Protocol):
    """A LazyFrame that may be cut into several."""

    def frame(self) -> pl.LazyFrame:
        """All rows in one."""
        ...

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        """`work` of every piece, in the order of the rows. Picklable work, small results."""
        ...


@dataclass(frozen=True)
class Whole:
    """One piece, in this process."""

    rows: pl.LazyFrame

    def frame(self) -> pl.LazyFrame:
        return self.rows

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        return [work(self.rows)]


@dataclass(frozen=True)
class Mapped:
    """Pieces after a transformation that looks at each row by itself."""

    pieces: Pieces
    transform: Transform

    def frame(self) -> pl.LazyFrame:
        return self.transform(self.pieces.frame())

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterable[Result]:
        return self.pieces.run(_Then(self.transform, work))


@dataclass(frozen=True)
class _Then:
    """One function after the other; unlike a lambda it can be pickled."""

    first: Callable[[Any], Any]
    second: Callable[[Any], Any]

    def __call__(self, rows: Any) -> Any:
        return self.second(self.first(rows))


def batches(rows: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, some at a time: numpy sums them quicker than an aggregation does."""
    return rows.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True, engine="streaming")
