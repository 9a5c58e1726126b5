"""Settings around a strategy: conditions, quotas, exploration, guards, weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attent_select.errors import InputError
from attent_select.selection.quotas import Quotas

Weights = Literal["none", "inverse_probability"]


@dataclass(frozen=True)
class Composition:
    """Settings around a strategy; the defaults change nothing.

    Attributes:
        where: polars SQL condition that eligible rows fulfil, such as `num_units > 10`.
        by: column of the catalog whose values are the strata; each gets its quota of the budget.
        quotas: `equal`, `proportional` (to the eligible rows of each stratum), or value → share.
        explore: share of the budget drawn uniformly from the rows that the strategy did not select,
            in [0, 1].
        max_visits: exclude rows that are still hard after this many visits; None: no such guard.
        hard_quantile: rows are hard if their loss exceeds this quantile of the eligible losses.
        weights: `none` (all 1), or `inverse_probability` (1/p, scaled to mean 1 over the index, so
            that the weighted mean loss is the self-normalised estimate of the corpus mean).
    """

    where: str | None = None
    by: str | None = None
    quotas: Quotas = "proportional"
    explore: float = 0.0
    max_visits: int | None = None
    hard_quantile: float = 0.95
    weights: Weights = "none"

    def __post_init__(self) -> None:
        if self.by is None and self.quotas != "proportional":
            raise InputError("quotas: also set `by`, the column whose values are the strata")
        if not (isinstance(self.quotas, Mapping) or self.quotas in ("equal", "proportional")):
            raise InputError(
                f"quotas: {self.quotas!r}; expected equal, proportional, or value: share"
            )
        if not 0 <= self.explore <= 1:
            raise InputError(f"explore: {self.explore} is outside [0, 1]")
        if self.max_visits is not None and self.max_visits < 1:
            raise InputError(f"max_visits: {self.max_visits} is less than 1")
        if not 0 < self.hard_quantile < 1:
            raise InputError(f"hard_quantile: {self.hard_quantile} is outside (0, 1)")
        if self.weights not in ("none", "inverse_probability"):
            raise InputError(f"weights: {self.weights!r}; expected none or inverse_probability")
