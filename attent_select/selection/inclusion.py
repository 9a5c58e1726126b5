"""The rows within the budgets, each with the probability that it is among them.

The strategy's share of every budget, then exploration in what is left.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from attent_select.schema import PROBABILITY
from attent_select.selection import top_m
from attent_select.selection.chunks import Chunks, Mapped
from attent_select.selection.radix import STRATUM
from attent_select.selection.top_m import FIRST_EXCLUDED, INCLUDED, KEY, Cut
from attent_select.strategy import Candidates, Cutoff, Strategy

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

    rows: Chunks
    cut_of: Mapping[int, Cut]
    available: Mapping[int, int]

    @property
    def threshold(self) -> float | None:
        """The smallest key that the strategy took, None if it took nothing."""
        return min((cut.last.key for cut in self.cut_of.values() if cut.last), default=None)


@dataclass(frozen=True)
class Sample:
    """Some of the keyed rows, held in memory, and how many rows they stand for."""

    rows: pl.DataFrame
    num_rows: int

    @property
    def pilot(self) -> top_m.Pilot:
        return top_m.Pilot.of(self.rows[KEY], num_rows=self.num_rows)


def pick(
    keyed: Chunks,
    budget: Budget,
    *,
    strategy: Strategy,
    candidates: Candidates,
    explore_key: pl.Expr,
    sample: Sample | None,
) -> Picked:
    """Take the largest keys, then explore.

    Args:
        keyed: the eligible rows with KEY, COST, STRATUM and the strategy's columns.
        budget: may be without `available` only with a sample.
        strategy: gives the probabilities.
        candidates: as given to the strategy's `key`.
        explore_key: a second uniform number per row.
        sample: only for one stratum that is counted in samples; makes it faster.
    """
    if sample is not None:
        found, num_rows = top_m.cut(keyed, budget.exploited[0], pilot=sample.pilot)
        top_m.check_enough(num_rows, num_selected=budget.spend[0])
        cut_of, available = {0: found}, {0: num_rows}
    else:
        assert budget.available is not None
        cut_of, available = top_m.cuts(keyed, budget.exploited), dict(budget.available)
    taking = functools.partial(
        _with_taken,
        cut_of=cut_of,
        numbers=_numbers(budget, available),
        probability=_probability(strategy, candidates),
    )
    taken = Mapped(keyed, taking)
    if not budget.explore:
        return Picked(Mapped(taken, _only_included), cut_of, available)
    if sample is not None:
        left = taking(sample.rows.lazy()).filter(pl.col(INCLUDED).not_()).collect()
        sample = Sample(left, available[0] - budget.exploited[0])
    return Picked(_explored(taken, budget, explore_key, sample=sample), cut_of, available)


def _with_taken(
    keyed: pl.LazyFrame, *, cut_of: Mapping[int, Cut], numbers: pl.DataFrame, probability: pl.Expr
) -> pl.LazyFrame:
    """Adds what `top_m.with_cuts` does, and PROBABILITY."""
    rows = top_m.with_cuts(keyed, cut_of)
    return top_m.with_stratum_values(rows, numbers).with_columns(probability)


def _only_included(taken: pl.LazyFrame) -> pl.LazyFrame:
    return taken.filter(INCLUDED)


def _probability(strategy: Strategy, candidates: Candidates) -> pl.Expr:
    """That the strategy takes the row, as PROBABILITY."""
    cutoff = Cutoff(pl.col(_SPENT), pl.col(_AVAILABLE), pl.col(FIRST_EXCLUDED))
    return (
        pl.when(pl.col(_SPENT) == 0)
        .then(0.0)
        .when(pl.col(FIRST_EXCLUDED).is_not_null())
        .then(strategy.probability(candidates, cutoff).clip(0.0, 1.0))
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


def _explored(
    taken: Chunks, budget: Budget, explore_key: pl.Expr, *, sample: Sample | None
) -> Chunks:
    """The rows that the strategy took, and a uniform draw from those that it left."""
    both = Mapped(taken, functools.partial(_with_explore_key, explore_key=explore_key))
    left = Mapped(both, _only_left)
    if sample is not None:
        some = _with_explore_key(sample.rows.lazy(), explore_key=explore_key).collect()
        pilot = Sample(some, sample.num_rows).pilot
        cut_of = {0: top_m.cut(left, budget.explored[0], pilot=pilot)[0]}
    else:
        cut_of = top_m.cuts(left, budget.explored)
    return Mapped(both, functools.partial(_only_drawn, cut_of=cut_of))


def _with_explore_key(taken: pl.LazyFrame, *, explore_key: pl.Expr) -> pl.LazyFrame:
    # A row that is sure to be in and is not, is sure to be out: only the cut decides about it.
    is_out = (pl.col(PROBABILITY) == 1.0) & pl.col(INCLUDED).not_()
    probability = pl.when(is_out).then(0.0).otherwise(pl.col(PROBABILITY)).alias(PROBABILITY)
    rows = taken.with_columns(probability, explore_key.alias(KEY))
    return rows.rename({INCLUDED: _EXPLOITED}).drop(FIRST_EXCLUDED)


def _only_left(both: pl.LazyFrame) -> pl.LazyFrame:
    return both.filter(pl.col(_EXPLOITED).not_())


def _only_drawn(both: pl.LazyFrame, *, cut_of: Mapping[int, Cut]) -> pl.LazyFrame:
    # The draw is among the rows left, but a key is a row's own: the cut holds for all of them.
    drawn = top_m.with_cuts(both, cut_of).filter(pl.col(INCLUDED) | pl.col(_EXPLOITED))
    taken = pl.col(PROBABILITY)
    return drawn.with_columns(taken + (1.0 - taken) * pl.col(_DRAWN))
