"""rank: a random draw by the rank of the loss, independent of its scale."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS
from attent_select.stats import elementary
from attent_select.stats.gumbel import Floats, NoisyLogit
from attent_select.stats.histogram import RankTable
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class Rank:
    """key = β·ln(r/n) + g, with r the rank of the loss (1: smallest) and g Gumbel noise.

    Draws m rows without replacement with weights r^β. Only the order of the losses matters, so no
    outlier can dominate. Losses in one histogram bucket (2^-12 wide, relative) share their rank.

    Attributes:
        exponent: β ≥ 0. At 0 this is `uniform`; for large β it approaches `hard`.

    Source: rank-based prioritisation, Schaul et al., "Prioritized Experience Replay", ICLR 2016.
    """

    exponent: float = 1.0

    needs_distribution: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.exponent < float("inf"):
            raise InputError(f"exponent: {self.exponent} is not a finite number ≥ 0")

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return self.noisy_logit(candidates).key(pl.col(LOSS))

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        noisy = self.noisy_logit(candidates)
        return noisy.probability_above(cutoff.first_excluded, pl.col(LOSS))

    def noisy_logit(self, candidates: Candidates) -> NoisyLogit:
        assert candidates.losses is not None
        logit = partial(_log_rank, ranks=candidates.losses.ranks, exponent=self.exponent)
        return NoisyLogit(logit, candidates.stream)


def _log_rank(loss: npt.NDArray[np.float32], *, ranks: RankTable, exponent: float) -> Floats:
    return exponent * elementary.log(ranks(loss))
