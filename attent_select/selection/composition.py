"""Settings around a strategy: conditions, quotas, exploration, guards, weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from attent_select.errors import InputError
from attent_select.schema import LEARNER_COLUMNS, LOSS, VISITS
from attent_select.selection.quotas import MovingQuotas, Quotas
from attent_select.sql_expression import columns_of
from attent_select.strategy import Strategy, expression_of

# Share explored by default where the key does not change with the learner: without it, the learner
# forgets what is not selected.
STATIC_EXPLORE: Final = 0.125

Weights = Literal["none", "inverse_probability"]


@dataclass(frozen=True)
class Composition:
    """Settings around a strategy; the defaults change nothing.

    Attributes:
        where: polars SQL condition that eligible rows fulfil, such as `num_units > 10`.
        by: column of the catalog whose values are the strata; each gets its quota of the budget.
        quotas: `equal`, `proportional` (to the eligible rows of each stratum), value → share, or
            those that move to the strata with the largest excess loss.
        distinct: annotation of kind `duplicates`; only the first row of each of its clusters is
            eligible. `none` is None.
        explore: share of the budget drawn uniformly from the rows that the strategy did not select,
            in [0, 1]. None: `STATIC_EXPLORE` if the key is an expression without the loss, else 0.
        max_visits: exclude rows that are still hard after this many visits; None: no such guard.
        hard_quantile: rows are hard if their loss exceeds this quantile of the eligible losses.
        weights: `none` (all 1), or `inverse_probability` (1/p, scaled to mean 1 over the index, so
            that the weighted mean loss is the self-normalised estimate of the corpus mean).
    """

    where: str | None = None
    by: str | None = None
    quotas: Quotas = "proportional"
    distinct: str | None = None
    explore: float | None = None
    max_visits: int | None = None
    hard_quantile: float = 0.95
    weights: Weights = "none"

    def __post_init__(self) -> None:
        if self.by is None and self.quotas != "proportional":
            raise InputError("quotas: also set `by`, the column whose values are the strata")
        is_known = isinstance(self.quotas, Mapping | MovingQuotas)
        if not is_known and self.quotas not in ("equal", "proportional"):
            raise InputError(
                f"quotas: {self.quotas!r}; expected equal, proportional, or value: share"
            )
        if self.explore is not None and not 0 <= self.explore <= 1:
            raise InputError(f"explore: {self.explore} is outside [0, 1]")
        if self.max_visits is not None and self.max_visits < 1:
            raise InputError(f"max_visits: {self.max_visits} is less than 1")
        if not 0 < self.hard_quantile < 1:
            raise InputError(f"hard_quantile: {self.hard_quantile} is outside (0, 1)")
        if self.weights not in ("none", "inverse_probability"):
            raise InputError(f"weights: {self.weights!r}; expected none or inverse_probability")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the settings read."""
        columns = columns_of(self.where, what="where") if self.where is not None else ()
        columns += (self.by,) if self.by is not None else ()
        columns += (VISITS, LOSS) if self.max_visits is not None else ()
        if isinstance(self.quotas, MovingQuotas):
            columns += (self.quotas.reference, LOSS)
        return columns + ((self.rank_column,) if self.rank_column is not None else ())

    @property
    def rank_column(self) -> str | None:
        """Column with the rank of each row in its cluster of duplicates, from 0."""
        return None if self.distinct in (None, "none") else f"{self.distinct}_rank"

    def for_strategy(self, strategy: Strategy) -> "Composition":
        """Return the composition with `explore` resolved."""
        if self.explore is not None:
            return self
        return replace(self, explore=STATIC_EXPLORE if is_static(strategy) else 0.0)


def is_static(strategy: Strategy) -> bool:
    """Whether the key is an expression that does not change with the learner."""
    has_expression = expression_of(strategy) is not None
    return has_expression and not set(LEARNER_COLUMNS).intersection(strategy.columns)
