"""soft: Gumbel-top-m, a random draw that prefers large losses."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS
from attent_select.stats import elementary
from attent_select.stats.gumbel import Floats, Logit, NoisyLogit
from attent_select.strategy import Candidates, Cutoff

# The published rule adds this inside its logarithm.
_EPSILON = 1e-10


@dataclass(frozen=True)
class Soft:
    """key = z/τ + g, with z = (clip(ℓ) − μ)/σ and g Gumbel noise.

    Draws m rows without replacement with weights exp(z/τ). The noise is added after the division:
    dividing it by τ as well would only rescale the keys.

    Attributes:
        temperature: τ > 0. Near 0 this approaches `hard`; for large τ, `uniform`.
        clip_low: quantile of the losses below which they count as equal, in [0, 1].
        clip_high: quantile above which they count as equal, so that a few broken samples with
            enormous losses do not inflate σ. μ and σ are those of the clipped losses.
        reference: the literal published rule, for comparison: key = (ln(p + 1e-10) + g)/τ with
            p = exp(ℓ)/Σ exp(ℓ) over the eligible rows. With it τ has no effect, the scale of the
            losses does, and beyond about 10^10 rows the constant dominates p.

    Source: the "soft" selection of AtteNT, arXiv 2602.20461, and its published code.
    """

    temperature: float = 1.0
    clip_low: float = 0.0
    clip_high: float = 0.99
    reference: bool = False

    needs_distribution: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature: {self.temperature} is not a finite positive number")
        if not 0 <= self.clip_low < self.clip_high <= 1:
            raise InputError(
                f"clip_low {self.clip_low} and clip_high {self.clip_high}: "
                "expected 0 ≤ clip_low < clip_high ≤ 1"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return self.noisy_logit(candidates).key(pl.col(LOSS))

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        noisy = self.noisy_logit(candidates)
        return noisy.probability_above(cutoff.first_excluded, pl.col(LOSS))

    def noisy_logit(self, candidates: Candidates) -> NoisyLogit:
        divisor = self.temperature if self.reference else 1.0
        return NoisyLogit(self._logit(candidates), candidates.stream, divisor)

    def _logit(self, candidates: Candidates) -> Logit:
        losses = candidates.losses
        assert losses is not None
        if self.reference:
            return partial(_published_logit, log_sum_exp=losses.log_sum_exp)
        low, high = losses.quantile(self.clip_low), losses.quantile(self.clip_high)
        clipped = losses.clip(low, high)
        if not clipped.standard_deviation:  # nearly all losses are equal: keep the tail
            low, high, clipped = float(losses.values[0]), float(losses.values[-1]), losses
        # If all losses are equal, every row has z = 0 and the draw is uniform.
        scale = self.temperature * (clipped.standard_deviation or 1.0)
        return partial(_standardized_logit, low=low, high=high, mean=clipped.mean, scale=scale)


def _standardized_logit(
    loss: npt.NDArray[np.float32], *, low: float, high: float, mean: float, scale: float
) -> Floats:
    z = loss.astype(np.float64)
    np.clip(z, low, high, out=z)
    z -= mean
    z /= scale
    return z


def _published_logit(loss: npt.NDArray[np.float32], *, log_sum_exp: float) -> Floats:
    return elementary.log(elementary.exp(loss.astype(np.float64) - log_sum_exp) + _EPSILON)
