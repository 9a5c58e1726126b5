"""learnability: samples that a reference model has learned and the learner has not."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class Learnability:
    """key = ℓ − ℓ_ref, the reducible loss in nats; a selected row has probability 1.

    Noisy and mislabelled samples are hard for the reference model too, so they are not selected.

    Attributes:
        reference: column with the loss of a reference model, such as an annotation of the corpus.

    Source: Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning,
    and Not Yet Learnt" (RHO-LOSS), ICML 2022.
    """

    reference: str = "reference_loss"

    needs_distribution: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.reference:
            raise InputError(
                "reference: empty; expected the column with the reference model's loss"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS, self.reference)

    def key(self, candidates: Candidates) -> pl.Expr:
        return pl.col(LOSS).cast(pl.Float64) - pl.col(self.reference).cast(pl.Float64)

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0)
