"""How the losses of a corpus lie: a histogram whose counts are integers.

Here: buckets of float32 losses, and mean, standard deviation and quantiles read from their counts.
Not here: scanning (`teaching.py` does one pass). Streaming float sums differ in the last bits from
run to run; integer counts do not, so everything that a selection depends on is read from them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

# Low bits of the float32 pattern dropped: 2^12 buckets per octave, a relative width of 2^-12.
_DROPPED_BITS: Final = 11


def bucket(loss: pl.Expr) -> pl.Expr:
    """u32 bucket of a finite float32 loss; rows of one bucket agree to 2^-12, relative."""
    loss = loss.cast(pl.Float32)
    pattern = pl.when(loss == 0.0).then(0).otherwise(loss.reinterpret(dtype=pl.UInt32))
    return pattern.cast(pl.UInt32) // pl.lit(1 << _DROPPED_BITS, dtype=pl.UInt32)


class Histogram:
    """Counts finite float32 losses per bucket, batch by batch."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def add(self, losses: npt.NDArray[np.float32]) -> None:
        if not len(losses):
            return
        # −0.0 + 0.0 is 0.0.
        buckets = (losses + np.float32(0.0)).view(np.uint32)
        buckets >>= np.uint32(_DROPPED_BITS)
        first = int(buckets.min())
        buckets -= np.uint32(first)
        counts = np.bincount(buckets)
        if (end := first + len(counts)) > len(self._counts):
            self._counts = np.pad(self._counts, (0, end - len(self._counts)))
        self._counts[first:end] += counts

    def occupied(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
        """The buckets that are not empty, ascending, and their counts."""
        buckets = np.flatnonzero(self._counts)
        return buckets.astype(np.uint32), self._counts[buckets].astype(np.uint64)


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
        """From the buckets that `bucket` gave, in any order, and their row counts."""
        shifted = buckets.astype(np.uint32) << np.uint32(_DROPPED_BITS)
        edge = shifted.view(np.float32).astype(np.float64)
        other = (shifted + np.uint32((1 << _DROPPED_BITS) - 1)).view(np.float32).astype(np.float64)
        # The bucket of zero is exact: losses of zero are common, and denormals are not.
        middle = np.where(shifted == 0, 0.0, (edge + other) / 2)
        order = np.argsort(middle)
        return cls(buckets[order], middle[order], counts[order].astype(np.uint64))

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
        """The rank of a loss as a share of all rows, float64 in (0, 1]; equal losses share theirs.

        With b rows in smaller buckets and c in its own: (b + (c + 1)/2) / n.
        """
        below = np.cumsum(self.counts, dtype=np.uint64) - self.counts
        shares = (below + (self.counts + 1) / 2) / self.num_samples
        table = np.zeros(1 << (32 - _DROPPED_BITS), dtype=np.float64)
        table[self.buckets] = shares

        def look_up(buckets: pl.Series) -> pl.Series:
            return pl.Series(table[buckets.fill_null(0).to_numpy()])

        # Not `replace_strict`: that one collects its input instead of streaming it.
        return bucket(loss).map_batches(look_up, return_dtype=pl.Float64, is_elementwise=True)

    @cached_property
    def standard_deviation(self) -> float:
        return float(np.sqrt((self.values - self.mean) ** 2 @ self.counts / self.num_samples))
