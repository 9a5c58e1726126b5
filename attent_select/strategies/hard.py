"""hard: the largest losses, where the learner is furthest from its target."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.schema import LOSS
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class Hard:
    """key = ℓ, the loss in nats. Deterministic: a selected row has probability 1.

    Source: the "hard" selection of AtteNT, arXiv 2602.20461.
    """

    needs_distribution: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return pl.col(LOSS)

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0, dtype=pl.Float64)
