"""functional_gradient: the largest ‖∂ℓ/∂f‖, where the answer is furthest from its target."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.schema import FUNCTIONAL_GRADIENT
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class FunctionalGradient:
    """key = ‖∂ℓ/∂f‖; nothing is random: a selected row has probability 1.

    f is what the model says of a sample; for cross-entropy ∂ℓ/∂f = softmax(f) − onehot(y), whose
    norm is at most √2 however large the loss. Scoring writes the norm into the column
    `functional_gradient` where `scoring.functional_gradient` is true; a loss that was observed in
    training leaves it as it was.

    Source: the teacher of AtteNT, arXiv 2602.20461, picks the samples with the largest functional
    gradient; its code ranks them by the loss.
    """

    needs_distribution: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (FUNCTIONAL_GRADIENT,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return pl.col(FUNCTIONAL_GRADIENT).cast(pl.Float64)

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0, dtype=pl.Float64)
