"""below_mean: prune at random among the samples that are learned better than the average."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.schema import LOSS
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class BelowMean:
    """key = 1[ℓ ≥ μ] + u, with μ the mean loss and u uniform: pruned is what lies below the mean.

    With b rows below the mean and m to select, each of them is pruned with r = (n − m)/b, and all
    others are kept. With `weights: inverse_probability` the kept rows below the mean weigh 1/(1 −
    r), as InfoBatch does (before the weights are scaled to mean 1). Where m is less than the rows
    above the mean, those are drawn uniformly and r = 1.

    μ is read from the loss histogram, whose buckets are 2^-12 wide, relative.

    Source: Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
    ICLR 2024. There r is fixed (0.5) and m follows; here the schedule gives m.
    """

    needs_distribution: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        # u is in (0, 1]: halved, the two groups cannot meet.
        return self._is_above(candidates).cast(pl.Float64) + candidates.uniform / 2

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        # Given the largest key left out, t: within its group a row is in where u/2 > t.
        group = self._is_above(candidates).cast(pl.Float64)
        return (1.0 - 2.0 * (cutoff.first_excluded - group)).clip(0.0, 1.0)

    def _is_above(self, candidates: Candidates) -> pl.Expr:
        assert candidates.losses is not None
        return pl.col(LOSS).cast(pl.Float64) >= candidates.losses.mean
