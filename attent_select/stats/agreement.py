"""Agreement of two sets of losses: Kolmogorov–Smirnov distance and rank correlation."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

Values = npt.NDArray[np.floating]

# With fewer values neither measure is meaningful.
MIN_VALUES: Final = 32


def ks_distance(one: Values, other: Values) -> float | None:
    """D = sup |F(x) − G(x)|, F and G the shares of values ≤ x, in [0, 1].

    0 for equal distributions, 1 if their ranges do not overlap; invariant under every increasing
    transformation. None if either side has fewer than `MIN_VALUES` finite values.

    Source: the two-sample statistic of Kolmogorov and Smirnov (Smirnov, 1939).
    """
    one, other = (np.sort(side[np.isfinite(side)]) for side in (one, other))
    if min(len(one), len(other)) < MIN_VALUES:
        return None
    points = np.concatenate([one, other])
    shares = [np.searchsorted(side, points, side="right") / len(side) for side in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def rank_correlation(one: Values, other: Values) -> float | None:
    """Spearman's ρ of pairs, in [−1, 1]: the correlation of their ranks; ties share a rank.

    None for fewer than `MIN_VALUES` finite pairs, or if all values of a side are equal.

    Source: Spearman, "The Proof and Measurement of Association between Two Things", 1904.
    """
    is_finite = np.isfinite(one) & np.isfinite(other)
    ranks = [pl.Series(side[is_finite]).rank("average").to_numpy() for side in (one, other)]
    if len(ranks[0]) < MIN_VALUES or min(float(np.std(side)) for side in ranks) == 0:
        return None
    return float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1.0, 1.0))


def correlation_interval(correlation: float, *, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of Spearman's ρ of `count` > 3 pairs.

    tanh(artanh ρ ± 1.96·√((1 + ρ²/2) / (n − 3))), and ρ itself where |ρ| = 1.

    Source: Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations", Psychometrika 2000.
    """
    if abs(correlation) == 1:
        return correlation, correlation
    half = 1.959964 * math.sqrt((1 + correlation**2 / 2) / (count - 3))
    middle = math.atanh(correlation)
    return math.tanh(middle - half), math.tanh(middle + half)
