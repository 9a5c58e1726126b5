"""soft: Gumbel-top-m, large losses more often than small ones."""

import math
from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS
from attent_select.strategy import Candidates, Outcome


@dataclass(frozen=True)
class Soft:
    """key = z/τ + g, with z = (clip(ℓ) − μ)/σ and g = −ln(−ln u) Gumbel noise.

    Taking the m largest keys draws m rows without replacement with weights exp(z/τ). The noise
    stands outside the division: inside it, τ would scale both and change nothing.

    Given the largest key t that was not selected, a row is selected with probability
    P(z/τ + g > t) = 1 − exp(−exp(z/τ − t)).

    Attributes:
        temperature: τ > 0. Towards 0 this becomes `hard`, for large τ `uniform`.
        clip_low: quantile of the losses below which they count as equal, in [0, 1].
        clip_high: quantile above which they count as equal, so that a few broken samples with
            enormous losses do not stretch σ. μ and σ are those of the clipped losses.

    Sources: the "soft" selection of AtteNT, arXiv 2602.20461; Kool, van Hoof and Welling,
    "Stochastic beams and where to find them", ICML 2019 (Gumbel-top-k); Cohen and Kaplan,
    "Summarizing data using bottom-k sketches", PODC 2007 (probabilities given the threshold).
    """

    temperature: float = 1.0
    clip_low: float = 0.0
    clip_high: float = 0.99

    needs_distribution: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature: {self.temperature} is not a positive number")
        if not 0 <= self.clip_low < self.clip_high <= 1:
            raise InputError(
                f"clip_low {self.clip_low} and clip_high {self.clip_high}: "
                "expected 0 ≤ clip_low < clip_high ≤ 1"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return self._logit(candidates) - (0.0 - candidates.uniform.log()).log()

    def probability(self, candidates: Candidates, outcome: Outcome) -> pl.Expr:
        return 1.0 - (-((self._logit(candidates) - outcome.first_excluded).exp())).exp()

    def _logit(self, candidates: Candidates) -> pl.Expr:
        losses = candidates.losses
        assert losses is not None
        low, high = losses.quantile(self.clip_low), losses.quantile(self.clip_high)
        clipped = losses.clipped(low, high)
        # All losses equal: every row has z = 0 and the draw is uniform.
        scale = self.temperature * (clipped.standard_deviation or 1.0)
        return (pl.col(LOSS).cast(pl.Float64).clip(low, high) - clipped.mean) / scale
