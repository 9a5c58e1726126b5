"""Cost model of a round, and the share of the corpus that is worth rescoring.

In units of one training epoch over the whole corpus, a round that trains e epochs on the share
ρ and scores the share s of the corpus again costs

    C(s) = e·ρ + φ·s,        φ = seconds per sample scored / seconds per sample trained.

With d the share of the information in the old losses that is outdated (`outdated_share`), selecting
by them wastes that share of the training. The rows that need it most are scored first, so rescoring
the share s leaves the share (1 − s)² of the waste:

    C(s) + e·ρ·d·(1 − s)²   is smallest at   s* = 1 − φ / (2·e·ρ·d),   at least `MIN_SHARE`.

More drift, longer rounds and cheaper scoring never lead to less rescoring.

A round that takes its samples from k times as many candidates costs 1 + k·φ per sample trained.
With v(k) the mean of the largest 1/k of the losses divided by the mean of all, the best multiple k
is where v(k) / (1 + k·φ) is largest. Cheaper scoring never leads to fewer candidates.

Source: the first formula is AtteNT's cost of a round (arXiv 2602.20461); that the value of
rescoring falls linearly with its share, and that a sample is worth its loss, are our assumptions.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import numpy.typing as npt

# Without new measurements, outdated losses would not be noticed.
MIN_SHARE: Final = 0.02
# With fewer candidates, a round would hardly choose; of more, the largest losses are outliers.
MULTIPLES: Final = (1.5, 10.0)
# A backward pass costs about two forward passes (Kaplan et al., arXiv 2001.08361, section 2.1), or
# about one if only adapters are trained, because frozen weights need no gradients.
_PRIOR: Final = 1 / 3
_ADAPTER_PRIOR: Final = 1 / 2


@dataclass(frozen=True)
class RoundSeconds:
    """Measurements of a finished round: numbers of samples, and the wall time for them."""

    scored: float
    score_seconds: float
    trained: float
    train_seconds: float


@dataclass(frozen=True)
class ScoringCost:
    """φ and its source: `measured`, or `prior` if nothing was measured yet."""

    phi: float
    source: str

    @classmethod
    def of(cls, rounds: Iterable[RoundSeconds], *, adapters: bool) -> "ScoringCost":
        """Estimate φ from the median seconds per sample over the rounds of a run.

        Without measurements, return the prior: 1/3, or 1/2 if only adapters are trained.
        """
        rounds = list(rounds)
        scored = [r.score_seconds / r.scored for r in rounds if r.scored and r.score_seconds]
        trained = [r.train_seconds / r.trained for r in rounds if r.trained and r.train_seconds]
        if scored and trained:
            return cls(median(scored) / median(trained), "measured")
        return cls(_ADAPTER_PRIOR if adapters else _PRIOR, "prior")

    def round_cost(self, *, trained: float, share: float) -> float:
        """Return C(s) in epochs over the corpus; `trained` is e·ρ."""
        return trained + self.phi * share

    def best_share(self, *, outdated: float, trained: float) -> float:
        """Return s*, in [`MIN_SHARE`, 1]; `outdated` is d in [0, 1], `trained` is e·ρ."""
        gain = 2 * trained * outdated
        return max(MIN_SHARE, 1 - self.phi / gain) if gain > 0 else MIN_SHARE

    def best_multiple(self, losses: npt.NDArray[np.float64]) -> tuple[float, float]:
        """Return k in `MULTIPLES`, to a tenth, and v(k), for the losses of random candidates.

        The mean of the losses, which are finite, is positive.
        """
        multiples = np.arange(MULTIPLES[0] * 10, MULTIPLES[1] * 10 + 1) / 10
        sums = np.cumsum(np.sort(losses)[::-1])
        counts = np.ceil(len(losses) / multiples).astype(np.int64)
        values = sums[counts - 1] / counts / (sums[-1] / len(losses))
        best = int(np.argmax(values / (1 + multiples * self.phi)))
        return float(multiples[best]), float(values[best])


def outdated_share(drift: float, *, agreement: float, covered: float) -> float:
    """Return d in [0, 1]: the share of the information in the old losses that is outdated.

    d = D·(1 − c·max(0, A)), with D the drift of the losses, c the share of the rows that training
    has observed since, and A the rank correlation of observed and scored losses.
    """
    return drift * (1 - covered * max(0.0, agreement))
