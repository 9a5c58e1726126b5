"""Histogram of losses with integer counts, so that its statistics are reproducible bit for bit.

Mean, standard deviation and quantiles come from the counts. Streaming float sums differ in the last
bits from run to run; integer counts do not.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.stats import elementary
from attent_select.stats.elementwise import elementwise

# Low bits of the float32 pattern dropped: 2^12 buckets per octave, a relative width of 2^-12.
_DROPPED_BITS: Final = 11
# Few enough losses for a core's cache.
_LOSSES_PER_STEP: Final = 1 << 16


def loss_bucket(loss: pl.Expr) -> pl.Expr:
    """u32 bucket of a finite float32 loss; a bucket is 2^-12 wide, relative."""
    return elementwise(buckets_of, loss.cast(pl.Float32), dtype=pl.UInt32)


def buckets_of(losses: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """`loss_bucket` for an array."""
    buckets = (losses + np.float32(0.0)).view(np.uint32)  # −0.0 + 0.0 is 0.0
    buckets >>= np.uint32(_DROPPED_BITS)
    return buckets


def bucket_bounds(
    buckets: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the losses next to zero and farthest from zero in each bucket; infinite beyond."""
    patterns = buckets << np.uint32(_DROPPED_BITS)
    last = patterns + np.uint32((1 << _DROPPED_BITS) - 1)
    return patterns.view(np.float32), np.nan_to_num(last.view(np.float32), nan=np.inf)


def count_buckets(
    losses: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Return the occupied buckets of finite losses, ascending, and the number of losses in each."""
    if not len(losses):
        return np.empty(0, np.uint32), np.empty(0, np.uint64)
    buckets = np.empty(len(losses), np.int64)  # the type that `bincount` counts
    for first in range(0, len(losses), _LOSSES_PER_STEP):
        step = slice(first, first + _LOSSES_PER_STEP)
        buckets[step] = buckets_of(losses[step])
    lowest = buckets.min()
    buckets -= lowest
    counts = np.bincount(buckets)
    occupied = np.flatnonzero(counts)
    return (occupied + lowest).astype(np.uint32), counts[occupied].astype(np.uint64)


class Histogram:
    """Sum of the bucket counts of many chunks."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)

    def add(self, buckets: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint64]) -> None:
        """Add counts per bucket; `buckets` may be in any order and may repeat."""
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
    """Distribution of losses, to a relative precision of 2^-12.

    Attributes:
        buckets: uint32[n], the occupied buckets.
        values: float64[n], the middle of each bucket, increasing.
        counts: uint64[n], the number of rows in each bucket.
    """

    buckets: npt.NDArray[np.uint32]
    values: npt.NDArray[np.float64]
    counts: npt.NDArray[np.uint64]

    @classmethod
    def from_buckets(
        cls, buckets: npt.NDArray[np.uint32], counts: npt.NDArray[np.uint64]
    ) -> "LossDistribution":
        """Build from buckets of `loss_bucket`, in any order, and their row counts."""
        near, far = (bounds.astype(np.float64) for bounds in bucket_bounds(buckets))
        # The bucket of zero counts as exactly 0: zero losses are common, denormals are not.
        middle = np.where(buckets == 0, 0.0, (near + far) / 2)
        order = np.argsort(middle)
        return cls(buckets[order], middle[order], counts[order])

    @cached_property
    def num_samples(self) -> int:
        return int(self.counts.sum(dtype=np.uint64))

    @cached_property
    def mean(self) -> float:
        return _sum(self.values * self.counts) / self.num_samples

    def quantile(self, share: float) -> float:
        """Return the smallest value with at least `share` of the rows at or below it."""
        below = np.cumsum(self.counts, dtype=np.uint64)
        rank = min(int(np.searchsorted(below, share * self.num_samples)), len(self.values) - 1)
        return float(self.values[rank])

    def clip(self, low: float, high: float) -> "LossDistribution":
        """Return the distribution with every value clipped to [low, high]."""
        return LossDistribution(self.buckets, np.clip(self.values, low, high), self.counts)

    @cached_property
    def log_sum_exp(self) -> float:
        """ln Σ exp(ℓ) over all rows."""
        top = float(self.values[-1])
        total = _sum(elementary.exp(self.values - top) * self.counts)
        return top + float(elementary.log(np.array([total]))[0])

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
        if self.values[0] == self.values[-1]:  # exactly 0, without the rounding of the mean
            return 0.0
        return math.sqrt(_sum((self.values - self.mean) ** 2 * self.counts) / self.num_samples)


def _sum(summands: npt.NDArray[np.float64]) -> float:
    """Return the exact sum, rounded once."""
    return math.fsum(summands.tolist())  # three times as fast as of an array


@dataclass(frozen=True)
class RankTable:
    """Rank of a loss as a share of all rows, in (0, 1]; losses in one bucket share a rank.

    With b rows in smaller buckets and c in its own: (b + (c + 1)/2) / n.

    Attributes:
        first: the first bucket of the table.
        table: float64[buckets], rank by bucket; undefined for empty buckets.
    """

    first: int
    table: npt.NDArray[np.float64]

    def __call__(self, losses: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return self.table.take(buckets_of(losses).astype(np.int64) - self.first, mode="clip")
