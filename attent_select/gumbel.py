"""Gumbel-top-m: drawing without replacement by taking the largest noisy logits.

Taking the m largest of φ + g, g = −ln(−ln u), draws m rows one after the other without replacement,
each time with probability ∝ exp(φ). Given the largest noisy logit t that was not taken, a row is
taken with probability P(φ + g > t) = 1 − exp(−exp(φ − t)).

Sources: Kool, van Hoof and Welling, "Stochastic beams and where to find them", ICML 2019; Cohen and
Kaplan, "Summarizing data using bottom-k sketches", PODC 2007 (probabilities given the threshold,
with which 1/p weights are unbiased).
"""

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.elementwise import elementwise


def gumbel(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise from uniforms in (0, 1]; +∞ at 1."""
    # 0 − and not minus: ln 1 must give +0, whose logarithm is −∞.
    return -np.log(0.0 - np.log(uniform))


def noisy(logit: pl.Expr, uniform: pl.Expr) -> pl.Expr:
    """logit + g."""
    return elementwise(_noisy, logit, uniform)


def probability_above(threshold: pl.Expr, logit: pl.Expr) -> pl.Expr:
    """P(logit + g > threshold), in (0, 1]."""
    return 1.0 - (-((logit - threshold).exp())).exp()


def _noisy(
    logit: npt.NDArray[np.float64], uniform: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return logit + gumbel(uniform)
