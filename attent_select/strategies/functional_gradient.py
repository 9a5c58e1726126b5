"""functional_gradient: the largest ‖∂ℓ/∂f‖, where the output is furthest from its target."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.schema import FUNCTIONAL_GRADIENT
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class FunctionalGradient:
    """key = ‖∂ℓ/∂f‖. Deterministic: a selected row has probability 1.

    f is the model's output for a sample. For cross-entropy ∂ℓ/∂f = softmax(f) − onehot(y), whose
    norm is at most √2 however large the loss is. Scoring writes the norm into the column
    `functional_gradient` if `scoring.functional_gradient` is true; losses observed in training do
    not change it.

    Source: the teacher of AtteNT, arXiv 2602.20461, selects the samples with the largest functional
    gradient; its code ranks them by the loss.
    """

    needs_distribution: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (FUNCTIONAL_GRADIENT,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return pl.col(FUNCTIONAL_GRADIENT)

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0, dtype=pl.Float64)
