"""What a round costs, and how much re-scoring is worth. Pure.

The cost model and the share that it finds worthwhile.

In units of one training epoch over the whole corpus, a round that trains e epochs on the share
ρ and scores the share s of the corpus again costs

    C(s) = e·ρ + φ·s,        φ = seconds per sample scored / seconds per sample trained.

A loss that is not measured again is an old one. With d the share of what the old losses say
that is wrong by now (`need`), choosing by them wastes that share of the training. The rows that
need it most are scored first, so that re-scoring the share s leaves the share (1 − s)² of the
waste:

    C(s) + e·ρ·d·(1 − s)²   is smallest at   s* = 1 − φ / (2·e·ρ·d),   at least `MIN_SHARE`.

More drift, longer rounds and cheaper scoring never ask for less re-scoring.

Source: the first formula is AtteNT's accounting of a round (arXiv 2602.20461); that the value
of re-scoring falls linearly with its share is an assumption of ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

# Without any new measurement nobody would see that the losses have become wrong.
MIN_SHARE: Final = 0.02
# A backward pass costs about two forward passes (Kaplan et al., arXiv 2001.08361, section 2.1), and
# about one where only adapters learn: the gradients of the frozen weights are not computed.
_PRIOR: Final = 1 / 3
_PRIOR_OF_ADAPTERS: Final = 1 / 2


@dataclass(frozen=True)
class RoundSeconds:
    """What a finished round measured: samples, and the seconds (wall time) that they took."""

    scored: float
    score_seconds: float
    trained: float
    train_seconds: float


@dataclass(frozen=True)
class ScoringCost:
    """φ, and where it is from: `measured`, or `prior`: nothing was measured yet."""

    phi: float
    source: str

    @classmethod
    def of(cls, rounds: Iterable[RoundSeconds], *, adapters: bool) -> "ScoringCost":
        """Of the median seconds per sample over a run's rounds; until they tell, the prior: 1/3,
        or 1/2 where only adapters are trained.
        """
        rounds = list(rounds)
        scored = [r.score_seconds / r.scored for r in rounds if r.scored and r.score_seconds]
        trained = [r.train_seconds / r.trained for r in rounds if r.trained and r.train_seconds]
        if scored and trained:
            return cls(median(scored) / median(trained), "measured")
        return cls(_PRIOR_OF_ADAPTERS if adapters else _PRIOR, "prior")

    def round_cost(self, *, trained: float, share: float) -> float:
        """C(s) in epochs over the corpus; `trained` is e·ρ."""
        return trained + self.phi * share

    def worthwhile(self, *, need: float, trained: float) -> float:
        """s*, in [`MIN_SHARE`, 1]; `need` is d in [0, 1], `trained` is e·ρ."""
        gain = 2 * trained * need
        return max(MIN_SHARE, 1 - self.phi / gain) if gain > 0 else MIN_SHARE


def need(drift: float, *, agreement: float, covered: float) -> float:
    """d in [0, 1]: how much of what the old losses say is wrong and not made up for.

    d = D·(1 − c·max(0, A)): the drift D of the losses, but for the share c of the rows that
    training has observed since, as far as observed losses agree with scored ones (rank correlation
    A).
    """
    return drift * (1 - covered * max(0.0, agreement))
