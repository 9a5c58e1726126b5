"""uniform: a new random subset each round, without losses; the control to beat."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class Uniform:
    """key = u, with u uniform per (seed, round, sample). Every row has probability m/n.

    Source: Okanovic et al., "Repeated Random Sampling for Minimizing the Time-to-Accuracy of
    Learning" (RS2), ICLR 2024.
    """

    needs_distribution: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def key(self, candidates: Candidates) -> pl.Expr:
        return candidates.uniform

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return cutoff.num_selected / cutoff.num_eligible
