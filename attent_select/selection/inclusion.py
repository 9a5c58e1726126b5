"""Inclusion: the rows within the budget, each with the probability that it is selected.

The strategy's share of each budget first, then exploration: a uniform draw from the other rows.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from attent_select.schema import FROM_KEY, FROM_UNIFORM, INDEX_ORIGIN, ORIGIN, PROBABILITY
from attent_select.selection import radix, top_m
from attent_select.selection.chunks import Chunks, MappedChunks
from attent_select.selection.columns import FIRST_EXCLUDED, INCLUDED, KEY, STRATUM
from attent_select.selection.counting import require_rows
from attent_select.selection.radix import SelectionEdge
from attent_select.selection.strata import with_stratum_values
from attent_select.strategy import Candidates, Cutoff, Strategy

_SPENT: Final = "__spent"
_AVAILABLE: Final = "__available"
_EXPLORE_SHARE: Final = "__explore_share"
_BY_STRATEGY: Final = "__by_strategy"


@dataclass(frozen=True)
class Allocation:
    """Budget per stratum, in samples or units.

    Attributes:
        budgets: stratum → budget.
        available: stratum → total cost of its eligible rows; None if they were not counted.
        explore: share of each budget that is drawn uniformly, in [0, 1].
    """

    budgets: Mapping[int, int]
    available: Mapping[int, int] | None
    explore: float = 0.0

    @property
    def explore_budgets(self) -> dict[int, int]:
        return {stratum: int(self.explore * cost + 0.5) for stratum, cost in self.budgets.items()}

    @property
    def has_both_origins(self) -> bool:
        """Whether rows are selected by their keys and by exploration."""
        return any(self.explore_budgets.values()) and any(self.strategy_budgets.values())

    @property
    def strategy_budgets(self) -> dict[int, int]:
        return {
            stratum: self.budgets[stratum] - cost for stratum, cost in self.explore_budgets.items()
        }


@dataclass(frozen=True)
class IncludedRows:
    """Rows within the budget, with PROBABILITY float64, in the order of the input.

    Attributes:
        rows: the rows, with the columns of the input.
        edges: stratum → where the strategy's budget ends.
        available: stratum → total cost of its eligible rows.
    """

    rows: Chunks
    edges: Mapping[int, SelectionEdge]
    available: Mapping[int, int]

    @property
    def threshold(self) -> float | None:
        """Smallest key that the strategy selected, None if it selected nothing."""
        return min((edge.last.key for edge in self.edges.values() if edge.last), default=None)


@dataclass(frozen=True)
class PilotRows:
    """Some of the rows with their keys, in memory, and the number of rows that they represent."""

    rows: pl.DataFrame
    num_rows: int

    @property
    def keys(self) -> top_m.PilotKeys:
        return top_m.PilotKeys.of(self.rows[KEY], num_rows=self.num_rows)


def include_rows(
    keyed: Chunks,
    allocation: Allocation,
    *,
    strategy: Strategy,
    candidates: Candidates,
    explore_key: pl.Expr,
    pilot: PilotRows | None,
) -> IncludedRows:
    """Select the rows with the largest keys, then explore.

    Args:
        keyed: eligible rows with KEY, COST, STRATUM and the strategy's columns.
        allocation: budgets; `available` may be None only with a pilot.
        strategy: gives the probabilities.
        candidates: as passed to the strategy's `key`.
        explore_key: a second uniform number per row.
        pilot: only for one stratum with a budget in samples; makes the search faster.

    Raises:
        TooFewError: fewer rows are eligible than the budget needs.
    """
    if pilot is not None:
        edge, num_rows = top_m.find_edge(keyed, allocation.strategy_budgets[0], pilot=pilot.keys)
        require_rows(allocation.budgets[0], eligible=num_rows)
        edges, available = {0: edge}, {0: num_rows}
    else:
        assert allocation.available is not None
        edges = radix.find_edges(keyed, allocation.strategy_budgets)
        available = dict(allocation.available)
    mark = functools.partial(
        _mark_included,
        edges=edges,
        amounts=_amounts_per_stratum(allocation, available),
        probability=_strategy_probability(strategy, candidates),
    )
    marked = MappedChunks(keyed, mark)
    if not allocation.explore:
        return IncludedRows(MappedChunks(marked, _only_included), edges, available)
    if pilot is not None:
        others = mark(pilot.rows.lazy()).filter(pl.col(INCLUDED).not_()).collect()
        pilot = PilotRows(others, available[0] - allocation.strategy_budgets[0])
    explored = _explore(marked, allocation, explore_key, pilot=pilot)
    return IncludedRows(explored, edges, available)


def _mark_included(
    keyed: pl.LazyFrame,
    *,
    edges: Mapping[int, SelectionEdge],
    amounts: pl.DataFrame,
    probability: pl.Expr,
) -> pl.LazyFrame:
    """Add INCLUDED, FIRST_EXCLUDED, the columns of `amounts`, and PROBABILITY."""
    rows = top_m.with_edges(keyed, edges)
    return with_stratum_values(rows, amounts).with_columns(probability)


def _only_included(marked: pl.LazyFrame) -> pl.LazyFrame:
    return marked.filter(INCLUDED)


def _strategy_probability(strategy: Strategy, candidates: Candidates) -> pl.Expr:
    """Return PROBABILITY: that the strategy selects the row."""
    cutoff = Cutoff(pl.col(_SPENT), pl.col(_AVAILABLE), pl.col(FIRST_EXCLUDED))
    return (
        pl.when(pl.col(_SPENT) == 0)
        .then(0.0)
        .when(pl.col(FIRST_EXCLUDED).is_not_null())
        .then(strategy.probability(candidates, cutoff).clip(0.0, 1.0))
        .otherwise(1.0)
        .alias(PROBABILITY)
    )


def _amounts_per_stratum(allocation: Allocation, available: Mapping[int, int]) -> pl.DataFrame:
    """Return per stratum the strategy's budget, what is available, and the explored share."""
    rows = [
        (
            stratum,
            float(budget),
            float(available[stratum]),
            min(1.0, allocation.explore_budgets[stratum] / max(1, available[stratum] - budget)),
        )
        for stratum, budget in allocation.strategy_budgets.items()
    ]
    amounts = dict.fromkeys((_SPENT, _AVAILABLE, _EXPLORE_SHARE), pl.Float64)
    return pl.DataFrame(rows, schema={STRATUM: pl.UInt32, **amounts}, orient="row")


def _explore(
    marked: Chunks, allocation: Allocation, explore_key: pl.Expr, *, pilot: PilotRows | None
) -> Chunks:
    """Return the rows that the strategy selected, and a uniform draw from the others."""
    rows = MappedChunks(marked, functools.partial(_with_explore_key, explore_key=explore_key))
    others = MappedChunks(rows, _only_others)
    if pilot is not None:
        pilot_rows = _with_explore_key(pilot.rows.lazy(), explore_key=explore_key).collect()
        keys = PilotRows(pilot_rows, pilot.num_rows).keys
        edges = {0: top_m.find_edge(others, allocation.explore_budgets[0], pilot=keys)[0]}
    else:
        edges = radix.find_edges(others, allocation.explore_budgets)
    return MappedChunks(
        rows,
        functools.partial(
            _only_selected_or_explored, edges=edges, marks_origin=allocation.has_both_origins
        ),
    )


def _with_explore_key(marked: pl.LazyFrame, *, explore_key: pl.Expr) -> pl.LazyFrame:
    # If a row with probability 1 is not included, the strategy is deterministic and excludes it.
    is_out = (pl.col(PROBABILITY) == 1.0) & pl.col(INCLUDED).not_()
    probability = pl.when(is_out).then(0.0).otherwise(pl.col(PROBABILITY)).alias(PROBABILITY)
    rows = marked.with_columns(probability, explore_key.alias(KEY))
    return rows.rename({INCLUDED: _BY_STRATEGY}).drop(FIRST_EXCLUDED)


def _only_others(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.col(_BY_STRATEGY).not_())


def _only_selected_or_explored(
    rows: pl.LazyFrame, *, edges: Mapping[int, SelectionEdge], marks_origin: bool
) -> pl.LazyFrame:
    # The edges were found among the other rows, but a row's key does not depend on the others.
    drawn = top_m.with_edges(rows, edges).filter(pl.col(INCLUDED) | pl.col(_BY_STRATEGY))
    by_strategy = pl.col(PROBABILITY)
    if marks_origin:
        origin = pl.when(_BY_STRATEGY).then(FROM_KEY).otherwise(FROM_UNIFORM)
        drawn = drawn.with_columns(origin.cast(INDEX_ORIGIN[ORIGIN]).alias(ORIGIN))
    return drawn.with_columns(by_strategy + (1.0 - by_strategy) * pl.col(_EXPLORE_SHARE))
