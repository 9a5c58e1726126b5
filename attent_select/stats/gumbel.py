"""Gumbel-top-m: drawing without replacement by selecting the largest noisy logits.

Selecting the m largest of φ + g, g = −ln(−ln u), is the same as drawing m rows one after another
without replacement, each time with probability ∝ exp(φ). Given t, the largest noisy logit that was
not selected, a row is selected with probability P(φ + g > t) = 1 − exp(−exp(φ − t)).

Sources: Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019; Cohen and
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007 (probabilities given the threshold,
with which 1/p weights are unbiased).
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID
from attent_select.stats.elementwise import elementwise
from attent_select.stats.randomness import numpy_sample_uniform

Floats = npt.NDArray[np.float64]
# float32[n] losses in nats → float64[n].
Logit = Callable[[npt.NDArray[np.float32]], Floats]


def gumbel(uniform: Floats) -> Floats:
    """Standard Gumbel noise from uniforms in (0, 1]; +∞ at 1."""
    noise = np.log(uniform)
    # Subtracted from 0, not negated: ln 1 must give +0, whose logarithm is −∞.
    np.subtract(0.0, noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


def noisy_logit(logit: Logit, loss: pl.Expr, *, stream: int) -> pl.Expr:
    """logit(ℓ) + g, with draws from a `stream_key`; one call, because every pass computes it."""
    return elementwise(partial(_noisy_logit, logit, stream), loss, pl.col(SHARD_ID), pl.col(ROW))


def probability_above(threshold: pl.Expr, logit: Logit, loss: pl.Expr) -> pl.Expr:
    """P(logit(ℓ) + g > threshold), in (0, 1]."""
    return 1.0 - (-((elementwise(logit, loss) - threshold).exp())).exp()


def _noisy_logit(
    logit: Logit,
    stream: int,
    loss: npt.NDArray[np.float32],
    shards: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.uint32],
) -> Floats:
    noise = gumbel(numpy_sample_uniform(stream, shards, rows))
    noise += logit(loss)
    return noise
