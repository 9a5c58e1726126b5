"""How the losses of a corpus lie: a histogram whose counts are integers.

Buckets of float32 losses, and mean, standard deviation and quantiles read from their counts.
Streaming float sums differ in the last bits from run to run; integer counts do not, so
everything that a selection depends on is read from them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.stats.elementwise import elementwise

# Low bits of the float32 pattern dropped: 2^12 buckets per octave, a relative width of 2^-12.
_DROPPED_BITS: Final = 11


def loss_bucket(loss: pl.Expr) -> pl.Expr:
    """u32 bucket of a finite float32 loss; rows of one bucket agree to 2^-12, relative."""
    return elementwise(buckets_of, loss.cast(pl.Float32), dtype=pl.UInt32)


def buckets_of(losses: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """`loss_bucket` of an array."""
    found = (losses + np.float32(0.0)).view(np.uint32)  # −0.0 + 0.0 is 0.0
    found >>= np.uint32(_DROPPED_BITS)
    return found


def counted(
    losses: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """The occupied buckets of finite losses, ascending, and how many losses each has."""
    if not len(losses):
        return np.empty(0, np.uint32), np.empty(0, np.uint64)
    buckets = buckets_of(losses)
    first = buckets.min()
    buckets -= first
    counts = np.bincount(buckets)
    occupied = np.flatnonzero(counts)
    return occupied.astype(np.uint32) + first, counts[occupied].astype(np.uint64)


class Histogram:
    """Sums what `counted` said of each chunk."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)

    def add(self, buckets: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint64]) -> None:
        """`buckets` may be in any order; each may be there several times."""
        if len(buckets) and (end := int(buckets.max()) + 1) > len(self._counts):
            self._counts = np.pad(self._counts, (0, end - len(self._counts)))
        np.add.at(self._counts, buckets, counts.astype(np.uint64))

    @property
    def num_samples(self) -> int:
        return int(self._counts.sum())

    def distribution(self) -> "LossDistribution":
        buckets = np.flatnonzero(self._counts)
        return LossDistribution.from_buckets(buckets.astype(np.uint32), self._counts[buckets])


@dataclass(frozen=True)
class LossDistribution:
    """The losses of `num_samples` rows, to a relative precision of 2^-12.

    `buckets` uint32[n] are the occupied ones, `values` float64[n] their middles, increasing, and
    `counts` uint64[n] how many rows are in each.
    """

    buckets: npt.NDArray[np.uint32]
    values: npt.NDArray[np.float64]
    counts: npt.NDArray[np.uint64]

    @classmethod
    def from_buckets(
        cls, buckets: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint64]
    ) -> "LossDistribution":
        """From the buckets that `loss_bucket` gave, in any order, and their row counts."""
        shifted = buckets.astype(np.uint32) << np.uint32(_DROPPED_BITS)
        edge = shifted.view(np.float32).astype(np.float64)
        other = (shifted + np.uint32((1 << _DROPPED_BITS) - 1)).view(np.float32).astype(np.float64)
        # The bucket of zero is exact: losses of zero are common, and denormals are not.
        middle = np.where(shifted == 0, 0.0, (edge + other) / 2)
        order = np.argsort(middle)
        return cls(buckets[order], middle[order], counts[order])

    @cached_property
    def num_samples(self) -> int:
        return int(self.counts.sum(dtype=np.uint64))

    @cached_property
    def mean(self) -> float:
        return float(self.values @ self.counts / self.num_samples)

    def quantile(self, share: float) -> float:
        """The smallest value with at least `share` of the rows at or below it."""
        below = np.cumsum(self.counts, dtype=np.uint64)
        rank = min(int(np.searchsorted(below, share * self.num_samples)), len(self.values) - 1)
        return float(self.values[rank])

    def clipped(self, low: float, high: float) -> "LossDistribution":
        """The distribution with every value moved into [low, high]."""
        return LossDistribution(self.buckets, np.clip(self.values, low, high), self.counts)

    @cached_property
    def log_sum_exp(self) -> float:
        """ln Σ exp(ℓ) over all rows."""
        top = float(self.values[-1])
        return top + float(np.log(np.exp(self.values - top) @ self.counts))

    def share_below(self, loss: pl.Expr) -> pl.Expr:
        """`ranks` of a loss, float64."""
        return elementwise(self.ranks, loss.cast(pl.Float32))

    @cached_property
    def ranks(self) -> "RankTable":
        below = np.cumsum(self.counts, dtype=np.uint64) - self.counts
        shares = (below + (self.counts + 1) / 2) / self.num_samples
        first, last = (int(each) for each in (self.buckets.min(), self.buckets.max()))
        table = np.ones(last - first + 1, dtype=np.float64)
        table[self.buckets - np.uint32(first)] = shares
        return RankTable(first, table)

    @cached_property
    def standard_deviation(self) -> float:
        if self.values[0] == self.values[-1]:  # not what is left by rounding the mean
            return 0.0
        return float(np.sqrt((self.values - self.mean) ** 2 @ self.counts / self.num_samples))


@dataclass(frozen=True)
class RankTable:
    """The rank of a loss as a share of all rows, in (0, 1]; equal losses share theirs.

    With b rows in smaller buckets and c in its own: (b + (c + 1)/2) / n. `table` is float64[number
    of buckets from `first` on]; a loss that is in none of them has no meaning.
    """

    first: int
    table: npt.NDArray[np.float64]

    def __call__(self, losses: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return self.table.take(buckets_of(losses).astype(np.int64) - self.first, mode="clip")
