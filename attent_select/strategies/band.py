"""band: samples of medium difficulty, between two quantiles of the loss."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class Band:
    """key = 1 + u inside the band, −distance to it (in quantiles) outside.

    Inside the band the draw is uniform. If the band has fewer rows than requested, the rows nearest
    to it are added. Losses in one histogram bucket (2^-12 wide, relative) share their quantile.

    Attributes:
        low: quantile at which the band begins, in [0, 1).
        high: quantile at which it ends, in (low, 1].

    Source: the moderate-difficulty rule of Sorscher et al., "Beyond neural scaling laws", NeurIPS
    2022, and Zheng et al., "Coverage-centric Coreset Selection", ICLR 2023 (hard cut-off).
    """

    low: float = 0.5
    high: float = 0.9

    needs_distribution: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise InputError(f"low {self.low} and high {self.high}: expected 0 ≤ low < high ≤ 1")

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        distance = self._distance(candidates)
        return pl.when(distance == 0.0).then(1.0 + candidates.uniform).otherwise(-distance)

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        inside = (2.0 - cutoff.first_excluded).clip(0.0, 1.0)
        return pl.when(self._distance(candidates) == 0.0).then(inside).otherwise(1.0)

    def _distance(self, candidates: Candidates) -> pl.Expr:
        assert candidates.losses is not None
        share = candidates.losses.share_below(pl.col(LOSS))
        return pl.max_horizontal(self.low - share, share - self.high, 0.0)
