"""Gumbel-top-m: drawing without replacement by selecting the largest noisy logits.

Selecting the m largest of φ + g, g = −ln(−ln u), is the same as drawing m rows one after another
without replacement, each time with probability ∝ exp(φ). Given t, the largest noisy logit that was
not selected, a row is selected with probability P(φ + g > t) = 1 − exp(−exp(φ − t)).

Sources: Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019; Cohen and
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007 (probabilities given the threshold,
with which 1/p weights are unbiased).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID, numpy_sample_key
from attent_select.stats import elementary
from attent_select.stats.elementwise import elementwise
from attent_select.stats.histogram import LossDistribution, bucket_bounds, buckets_of
from attent_select.stats.randomness import numpy_bits, numpy_sample_uniform

Floats = npt.NDArray[np.float64]
Losses = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint32]
# float32[n] losses in nats → float64[n]; a larger loss never has a smaller logit.
Logit = Callable[[Losses], Floats]

# Far beyond the rounding error of a noisy logit.
_MARGIN: Final = 1e-9
_LARGEST_U32: Final = (1 << 32) - 1


def gumbel(uniform: Floats) -> Floats:
    """Standard Gumbel noise from uniforms in (0, 1]; +∞ at 1."""
    noise = elementary.log(uniform)
    # Subtracted from 0, not negated: ln 1 must give +0, whose logarithm is −∞.
    np.subtract(0.0, noise, out=noise)
    return -elementary.log(noise)


def noisy_logit(logit: Logit, loss: pl.Expr, *, stream: int) -> pl.Expr:
    """logit(ℓ) + g, with draws from a `stream_key`; one call, because every pass computes it."""
    return elementwise(partial(_noisy_logit, logit, stream), loss, pl.col(SHARD_ID), pl.col(ROW))


def noisy_logit_between(
    logit: Logit,
    loss: pl.Expr,
    *,
    stream: int,
    low: float,
    high: float,
    losses: LossDistribution,
) -> pl.Expr:
    """`noisy_logit` where it is in [low, high]; elsewhere any value beyond the same end.

    Most rows need no logarithm: the bucket of a loss bounds its logit, and so the draws with which
    the row is surely beyond an end.
    """
    limits = _Limits.of(logit, losses, low=low, high=high)
    function = partial(_noisy_logit_between, logit, stream, limits)
    return elementwise(function, loss, pl.col(SHARD_ID), pl.col(ROW))


def probability_above(threshold: pl.Expr, logit: Logit, loss: pl.Expr) -> pl.Expr:
    """P(logit(ℓ) + g > threshold), in (0, 1]."""
    return elementwise(_probability_above, elementwise(logit, loss) - threshold)


def _probability_above(excess: Floats) -> Floats:
    return 1.0 - elementary.exp(-elementary.exp(excess))


def _noisy_logit(logit: Logit, stream: int, loss: Losses, shards: Ids, rows: Ids) -> Floats:
    noise = gumbel(numpy_sample_uniform(stream, shards, rows))
    noise += logit(loss)
    return noise


@dataclass(frozen=True)
class _Limits:
    """Limits of a draw, in units of 2^-32, for each bucket of a loss.

    Attributes:
        first: the first bucket.
        lowest: uint32[buckets]; with a smaller draw a row is surely below the lower end.
        highest: uint32[buckets]; with a larger draw it is surely above the upper end.
    """

    first: int
    lowest: Ids
    highest: Ids

    @classmethod
    def of(cls, logit: Logit, losses: LossDistribution, *, low: float, high: float) -> "_Limits":
        first, last = int(losses.buckets.min()), int(losses.buckets.max())
        bounds = bucket_bounds(np.arange(first, last + 1, dtype=np.uint32))
        smallest, largest = (logit(ends(*bounds)) for ends in (np.minimum, np.maximum))
        lowest = np.floor(_draws_below(low - largest - _MARGIN)) - 1
        highest = np.ceil(_draws_below(high - smallest + _MARGIN)) + 1
        return cls(
            first,
            np.clip(lowest, 0, _LARGEST_U32).astype(np.uint32),
            np.clip(highest, 0, _LARGEST_U32).astype(np.uint32),
        )


def _draws_below(noise: Floats) -> Floats:
    """Return how many of 2^32 draws have Gumbel noise below a value."""
    return elementary.exp(-elementary.exp(-noise)) * 2.0**32


def _noisy_logit_between(
    logit: Logit, stream: int, limits: _Limits, loss: Losses, shards: Ids, rows: Ids
) -> Floats:
    draws = numpy_bits(stream, numpy_sample_key(shards, rows))
    draws >>= np.uint64(32)
    buckets = buckets_of(loss).astype(np.int64)
    buckets -= limits.first
    is_above = draws > limits.highest.take(buckets, mode="clip")
    is_open = draws >= limits.lowest.take(buckets, mode="clip")
    is_open ^= is_above
    keys = np.where(is_above, np.inf, -np.inf)
    open_rows = np.flatnonzero(is_open)
    keys[open_rows] = _noisy_logit(
        logit, stream, loss[open_rows], shards[open_rows], rows[open_rows]
    )
    return keys
