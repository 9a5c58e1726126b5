"""staleness: hard samples, and samples whose loss was measured long ago."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS, MEASURED_STEP
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class Staleness:
    """key = ℓ + c·√a, with a the age of the loss in rounds; a selected row has probability 1.

    The age counts the rounds that began after the loss was measured. With partial rescoring an old
    loss is uncertain; the bonus makes sure that every sample is selected again eventually.

    Attributes:
        bonus: c ≥ 0, nats per √round.

    Source: the exploration bonus of upper confidence bounds, Auer, Cesa-Bianchi and Fischer,
    "Finite-time Analysis of the Multiarmed Bandit Problem", Machine Learning 47, 2002.
    """

    bonus: float = 0.1

    needs_distribution: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.bonus < float("inf"):
            raise InputError(f"bonus: {self.bonus} is not a finite number ≥ 0")

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS, MEASURED_STEP)

    def key(self, candidates: Candidates) -> pl.Expr:
        age = candidates.age(pl.col(MEASURED_STEP)).cast(pl.Float64)
        return pl.col(LOSS).cast(pl.Float64) + self.bonus * age.sqrt()

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0)
