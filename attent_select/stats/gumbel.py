"""Gumbel-top-m: drawing without replacement by selecting the largest noisy logits.

Selecting the m largest of φ + g, g = −ln(−ln u), is the same as drawing m rows one after another
without replacement, each time with probability ∝ exp(φ). Given t, the largest noisy logit that was
not selected, a row is selected with probability P(φ + g > t) = 1 − exp(−exp(φ − t)).

Sources: Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019; Cohen and
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007 (probabilities given the threshold,
with which 1/p weights are unbiased).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID, numpy_sample_key
from attent_select.stats import elementary
from attent_select.stats.elementwise import elementwise
from attent_select.stats.histogram import LossDistribution, bucket_bounds, buckets_of
from attent_select.stats.randomness import numpy_bits, uniform_of_bits

Floats = npt.NDArray[np.float64]
Losses = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]
# float32[n] losses in nats → float64[n]; a larger loss never has a smaller logit.
Logit = Callable[[Losses], Floats]

# Relative, and far beyond the rounding error of a noisy logit.
_MARGIN: Final = 1e-9
_LARGEST_U32: Final = (1 << 32) - 1
# In place of infinite logits, in what is only expected.
_LARGE: Final = 1e300
# Buckets of a histogram that share the limits of their draws: few enough limits for a cache.
_SHARED_BITS: Final = 5
# Few enough rows that the arrays stay in a core's cache.
_ROWS_PER_STEP: Final = 1 << 15
# A bracket extends by these standard deviations on each side of a rank, and by a share of it: the
# losses of a bucket are not all in its middle.
_DEVIATIONS: Final = 6.0
_BUCKET_ERROR: Final = 2.0**-13
# Range of Gumbel noise from uniforms that are multiples of 2^-53, and steps that halve it.
_NOISE: Final = (-4.0, 37.0)
_HALVINGS: Final = 40


def gumbel(uniform: Floats) -> Floats:
    """Standard Gumbel noise from uniforms in (0, 1]; +∞ at 1."""
    noise = elementary.log(uniform)
    # Subtracted from 0, not negated: ln 1 must give +0, whose logarithm is −∞.
    np.subtract(0.0, noise, out=noise)
    return -elementary.log(noise)


@dataclass(frozen=True)
class NoisyLogit:
    """(logit(ℓ) + g) / divisor of a row, with Gumbel noise g from the draws of a `stream_key`."""

    logit: Logit
    stream: int
    divisor: float = 1.0

    def key(self, loss: pl.Expr) -> pl.Expr:
        """float64 per row; one call, because passes compute it."""
        return elementwise(self._of_ids, loss, pl.col(SHARD_ID), pl.col(ROW))

    def probability_above(self, threshold: pl.Expr, loss: pl.Expr) -> pl.Expr:
        """P(key > threshold), in (0, 1]."""
        return elementwise(self._probability_above, loss, threshold)

    def _probability_above(self, losses: Losses, threshold: Floats) -> Floats:
        return _probability_above(self.logit(losses) - threshold * self.divisor)

    def of_bits(self, losses: Losses, bits: Keys) -> Floats:
        """Return the key of each row from the random bits of its sample_key."""
        noise = gumbel(uniform_of_bits(bits))
        noise += self.logit(losses)
        noise *= 1 / self.divisor  # as polars divides: its last bits were published
        return noise

    def _of_ids(
        self, losses: Losses, shards: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32]
    ) -> Floats:
        return self.of_bits(losses, numpy_bits(self.stream, numpy_sample_key(shards, rows)))


def _probability_above(excess: Floats) -> Floats:
    return 1.0 - elementary.exp(-elementary.exp(excess))


@dataclass(frozen=True)
class NoisyKeys:
    """The keys of many rows, of which the distribution of the losses is known."""

    noisy: NoisyLogit
    losses: LossDistribution

    @property
    def is_empty(self) -> bool:
        return not self.losses.num_samples

    def bracket(self, rank: float) -> tuple[float, float]:
        """Return keys (low, high) that almost surely enclose the row of this rank."""
        margin = _DEVIATIONS * math.sqrt(max(rank, 0.0)) + _DEVIATIONS**2 + rank * _BUCKET_ERROR
        return self._key_at(rank + margin), self._key_at(rank - margin)

    @np.errstate(all="ignore")  # infinite logits
    def rank(self, key: float) -> float:
        """Return the expected rank of a key among all rows."""
        above = _probability_above(self._groups.mean - key * self.noisy.divisor)
        return float(np.dot(above, self._groups.counts))

    @np.errstate(all="ignore")
    def search(self, low: float, high: float) -> "NoisySearch":
        """Return the search for the rows whose keys are in [low, high], or above."""
        shared, _, _, smallest, largest = self._groups
        below_low = low * self.noisy.divisor - largest - _MARGIN * (1 + np.abs(largest))
        below_high = high * self.noisy.divisor - smallest + _MARGIN * (1 + np.abs(smallest))
        limits = np.zeros((2, shared[-1] - shared[0] + 1), np.uint64)
        limits[1] = _LARGEST_U32
        # `fmax` and `fmin` replace NaN by the end at which nothing is sure.
        lowest = np.fmin(np.fmax(np.floor(_draws_below(below_low)) - 1, 0), _LARGEST_U32)
        highest = np.fmax(np.fmin(np.ceil(_draws_below(below_high)) + 1, _LARGEST_U32), 0)
        limits[0, shared - shared[0]] = lowest.astype(np.uint64)
        limits[1, shared - shared[0]] = highest.astype(np.uint64)
        limits <<= np.uint64(32)
        limits[1] |= np.uint64(_LARGEST_U32)
        return NoisySearch(self.noisy, low, high, int(shared[0]), *limits)

    def _key_at(self, rank: float) -> float:
        """Return a key of this expected rank; infinite beyond the first and the last row."""
        if not 0 < rank < self.losses.num_samples:
            return math.inf if rank <= 0 else -math.inf
        low, high = (float(self._groups.mean.min()), float(self._groups.mean.max()))
        low, high = (low + _NOISE[0]) / self.noisy.divisor, (high + _NOISE[1]) / self.noisy.divisor
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.rank(middle) > rank else (low, middle)
        return low

    @cached_property
    @np.errstate(all="ignore")
    def _groups(self) -> "_Groups":
        order = np.argsort(self.losses.buckets)
        buckets, counts = self.losses.buckets[order], self.losses.counts[order].astype(np.float64)
        shared = buckets.astype(np.int64) >> _SHARED_BITS
        starts = np.flatnonzero(np.diff(shared, prepend=-1))
        bounds = bucket_bounds(buckets)
        middle = self.noisy.logit(self.losses.values[order].astype(np.float32))
        sums = np.add.reduceat(counts, starts)
        return _Groups(
            shared[starts],
            sums,
            np.clip(np.add.reduceat(middle * counts, starts) / sums, -_LARGE, _LARGE),
            np.minimum.reduceat(self.noisy.logit(np.minimum(*bounds)), starts),
            np.maximum.reduceat(self.noisy.logit(np.maximum(*bounds)), starts),
        )


class _Groups(NamedTuple):
    """Groups of buckets of losses.

    Attributes:
        shared: int64[n], ascending: what the buckets of a group have in common.
        counts: float64[n], the number of rows.
        mean: float64[n], their mean logit, about.
        smallest: float64[n]; no row has a smaller logit.
        largest: float64[n]; no row has a larger logit.
    """

    shared: npt.NDArray[np.int64]
    counts: Floats
    mean: Floats
    smallest: Floats
    largest: Floats


@dataclass(frozen=True)
class NoisySearch:
    """Search for the rows whose keys are in [low, high], or above.

    Most rows need no logarithm: the bucket of a loss bounds its logit, and so the random bits with
    which a key is surely below `low` or above `high`.

    Attributes:
        first: what the first group of buckets has in common.
        lowest: uint64[groups]; with smaller bits a key is surely below `low`.
        highest: uint64[groups]; with larger bits a key is surely above `high`.
    """

    noisy: NoisyLogit
    low: float
    high: float
    first: int
    lowest: Keys
    highest: Keys

    def __call__(
        self,
        losses: Losses,
        sample_keys: Callable[[slice], Keys],
        *,
        is_eligible: npt.NDArray[np.bool_] | None = None,
    ) -> "RowsAbove":
        """Search among rows, or those that are eligible. `sample_keys` returns those of a slice."""
        is_candidate = np.empty(len(losses), np.bool_)
        num_above = 0
        open_rows, open_bits = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        for first in range(0, len(losses), _ROWS_PER_STEP):
            rows = slice(first, first + _ROWS_PER_STEP)
            bits = numpy_bits(self.noisy.stream, sample_keys(rows))
            groups = buckets_of(losses[rows])
            groups >>= np.uint32(_SHARED_BITS)
            places = groups.astype(np.int64)
            places -= self.first
            # A row that is not eligible may have any loss.
            is_above = bits > self.highest.take(places, mode="clip")
            is_open = bits >= self.lowest.take(places, mode="clip")
            if is_eligible is not None:
                is_above &= is_eligible[rows]
                is_open &= is_eligible[rows]
            is_candidate[rows] = is_open
            is_open ^= is_above
            num_above += int(np.count_nonzero(is_above))
            open_rows.append(np.flatnonzero(is_open))
            open_bits.append(bits[open_rows[-1]])
            open_rows[-1] += first
        rows_in_doubt = np.concatenate(open_rows)
        keys = self.noisy.of_bits(losses[rows_in_doubt], np.concatenate(open_bits))
        is_candidate[rows_in_doubt] = keys >= self.low
        is_inside = (keys >= self.low) & (keys <= self.high)
        num_above += int(np.count_nonzero(keys > self.high))
        return RowsAbove(is_candidate, num_above, rows_in_doubt[is_inside], keys[is_inside])


class RowsAbove(NamedTuple):
    """Rows with keys in [low, high] or above.

    Attributes:
        is_candidate: bool per row: whether it is one of them.
        num_above: number of rows above `high`.
        inside: int64[n], the rows in [low, high], ascending.
        keys: float64[n], their keys.
    """

    is_candidate: npt.NDArray[np.bool_]
    num_above: int
    inside: npt.NDArray[np.int64]
    keys: Floats


def _draws_below(noise: Floats) -> Floats:
    """Return how many of 2^32 draws have Gumbel noise below a value."""
    return elementary.exp(-elementary.exp(-noise)) * 2.0**32
