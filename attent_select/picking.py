"""The rows within the budgets, each with the probability that it is among them.

Here: the strategy's share of every budget, then exploration in what is left. Not here: budgets and
quotas (`teaching.py`), the search for a cut (`top_m.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from attent_select import top_m
from attent_select.radix import STRATUM
from attent_select.schema import PROBABILITY
from attent_select.strategy import Candidates, Outcome, Strategy
from attent_select.top_m import FIRST_EXCLUDED, INCLUDED, KEY, Cut

_SPENT: Final = "__spent"
_AVAILABLE: Final = "__available"
_DRAWN: Final = "__drawn"
_EXPLOITED: Final = "__exploited"


@dataclass(frozen=True)
class Budget:
    """What may be spent, counted in samples or in units.

    Attributes:
        spend: stratum → budget.
        available: stratum → what all its eligible rows cost; None where nobody has counted.
        explore: share of each budget that is drawn uniformly, in [0, 1].
    """

    spend: Mapping[int, int]
    available: Mapping[int, int] | None
    explore: float = 0.0

    @property
    def explored(self) -> dict[int, int]:
        return {stratum: int(self.explore * cost + 0.5) for stratum, cost in self.spend.items()}

    @property
    def exploited(self) -> dict[int, int]:
        return {stratum: self.spend[stratum] - cost for stratum, cost in self.explored.items()}


@dataclass(frozen=True)
class Picked:
    """The picked rows with PROBABILITY (float64), in the order of the input.

    `cut_of` is stratum → where the strategy's budget ends; `available` the budget's, counted now.
    """

    rows: pl.LazyFrame
    cut_of: Mapping[int, Cut]
    available: Mapping[int, int]

    @property
    def threshold(self) -> float | None:
        """The smallest key that the strategy took, None if it took nothing."""
        return min((cut.last.key for cut in self.cut_of.values() if cut.last), default=None)


def pick(
    keyed: pl.LazyFrame,
    budget: Budget,
    *,
    strategy: Strategy,
    candidates: Candidates,
    explore_key: pl.Expr,
    pilot: top_m.Pilot | None,
) -> Picked:
    """Take the largest keys, then explore.

    Args:
        keyed: the eligible rows with KEY, COST, STRATUM and the strategy's columns.
        budget: may be without `available` only with a pilot.
        strategy: gives the probabilities.
        candidates: as given to the strategy's `key`.
        explore_key: a second uniform number per row.
        pilot: only for one stratum without exploration; makes it faster.
    """
    if pilot is not None:
        found, num_rows = top_m.cut(keyed, budget.spend[0], pilot=pilot)
        cut_of, available = {0: found}, {0: num_rows}
    else:
        assert budget.available is not None
        cut_of, available = top_m.cuts(keyed, budget.exploited), dict(budget.available)
    rows = top_m.with_cuts(keyed, cut_of)
    rows = top_m.with_stratum_values(rows, _numbers(budget, available))
    probability = _probability(strategy, candidates)
    if budget.explore:
        kept = _with_explored(rows.with_columns(probability), budget, explore_key)
    else:
        kept = rows.filter(INCLUDED).with_columns(probability)
    return Picked(kept, cut_of, available)


def _probability(strategy: Strategy, candidates: Candidates) -> pl.Expr:
    """That the strategy takes the row, as PROBABILITY."""
    outcome = Outcome(pl.col(_SPENT), pl.col(_AVAILABLE), pl.col(FIRST_EXCLUDED))
    return (
        pl.when(pl.col(_SPENT) == 0)
        .then(0.0)
        .when(pl.col(FIRST_EXCLUDED).is_not_null())
        .then(strategy.probability(candidates, outcome).clip(0.0, 1.0))
        .otherwise(1.0)
        .alias(PROBABILITY)
    )


def _numbers(budget: Budget, available: Mapping[int, int]) -> pl.DataFrame:
    """Per stratum what the strategy spends, of what, and the share of the rest that is explored."""
    rows = [
        (
            stratum,
            float(spent),
            float(available[stratum]),
            min(1.0, budget.explored[stratum] / max(1, available[stratum] - spent)),
        )
        for stratum, spent in budget.exploited.items()
    ]
    kinds = {STRATUM: pl.UInt32, _SPENT: pl.Float64, _AVAILABLE: pl.Float64, _DRAWN: pl.Float64}
    return pl.DataFrame(rows, schema=kinds, orient="row")


def _with_explored(rows: pl.LazyFrame, budget: Budget, explore_key: pl.Expr) -> pl.LazyFrame:
    """The rows that the strategy took, and a uniform draw from those that it left."""
    # A row that is sure to be in and is not, is sure to be out: only the cut decides about it.
    is_out = (pl.col(PROBABILITY) == 1.0) & pl.col(INCLUDED).not_()
    taken = pl.when(is_out).then(0.0).otherwise(pl.col(PROBABILITY))
    both = rows.with_columns(taken.alias(PROBABILITY), explore_key.alias(KEY))
    both = both.rename({INCLUDED: _EXPLOITED}).drop(FIRST_EXCLUDED)
    cut_of = top_m.cuts(both.filter(pl.col(_EXPLOITED).not_()), budget.explored)
    # The draw is among the rows left, but a key is a row's own: the cut holds for all of them.
    drawn = top_m.with_cuts(both, cut_of).filter(pl.col(INCLUDED) | pl.col(_EXPLOITED))
    taken = pl.col(PROBABILITY)
    return drawn.with_columns(taken + (1.0 - taken) * pl.col(_DRAWN))
