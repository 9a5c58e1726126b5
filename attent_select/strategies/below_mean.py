"""below_mean: prune at random among the samples with a loss below the mean."""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from attent_select.schema import LOSS
from attent_select.strategy import Candidates, Cutoff


@dataclass(frozen=True)
class BelowMean:
    """key = 1[ℓ ≥ μ] + u/2, with μ the mean loss and u uniform: rows below the mean are pruned.

    With m of n rows to select and b rows below the mean, each row below the mean is pruned with
    probability r = (n − m)/b; all others are kept. With `weights: inverse_probability` the kept
    rows below the mean weigh 1/(1 − r), as in InfoBatch (before the weights are scaled to mean 1).
    If m is smaller than the number of rows above the mean, those are drawn uniformly and r = 1.

    μ is read from the loss histogram, whose buckets are 2^-12 wide, relative.

    Source: Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
    ICLR 2024. InfoBatch fixes r (0.5), which determines m; here the schedule determines m.
    """

    needs_distribution: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        # u is in (0, 1]; halved, so that the two groups cannot overlap.
        return self._is_above(candidates).cast(pl.Float64) + candidates.uniform / 2

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        # Given t, the largest excluded key, a row is selected if group + u/2 > t.
        group = self._is_above(candidates).cast(pl.Float64)
        return (1.0 - 2.0 * (cutoff.first_excluded - group)).clip(0.0, 1.0)

    def _is_above(self, candidates: Candidates) -> pl.Expr:
        assert candidates.losses is not None
        return pl.col(LOSS).cast(pl.Float64) >= candidates.losses.mean
