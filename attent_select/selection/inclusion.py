"""Inclusion: the rows within the budget, each with the probability that it is selected.

The strategy's share of each budget first, then exploration: a uniform draw from the other rows.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from attent_select.errors import TooFewError
from attent_select.schema import (
    FROM_KEY,
    FROM_UNIFORM,
    INDEX_ORIGIN,
    LOSS,
    ORIGIN,
    PROBABILITY,
    ROW,
    SHARD_ID,
)
from attent_select.selection import radix, top_m
from attent_select.selection.chunks import (
    Bitmap,
    Chunks,
    FunctionChain,
    MappedChunks,
    MarkedChunks,
    PlacedChunks,
    Transform,
)
from attent_select.selection.columns import (
    ELIGIBLE,
    EXPLORED,
    FIRST_EXCLUDED,
    INCLUDED,
    KEY,
    STRATUM,
)
from attent_select.selection.counting import require_rows
from attent_select.selection.radix import SelectionEdge
from attent_select.selection.strata import with_stratum_values
from attent_select.strategy import Candidates, Cutoff, Strategy

_SPENT: Final = "__spent"
_AVAILABLE: Final = "__available"
_EXPLORE_SHARE: Final = "__explore_share"
# Columns with one value per stratum.
_AMOUNTS: Final = {
    STRATUM: pl.UInt32,
    **dict.fromkeys((_SPENT, _AVAILABLE, _EXPLORE_SHARE, FIRST_EXCLUDED), pl.Float64),
}


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
        ids: the rows, with their ids and what else an index has; may read less.
        edges: stratum → where the strategy's budget ends.
        available: stratum → total cost of its eligible rows.
    """

    rows: Chunks
    ids: Chunks
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
        keys = self.rows.filter(ELIGIBLE)[KEY]
        return top_m.PilotKeys.of(keys, num_rows=self.num_rows)


@dataclass(frozen=True)
class _Mark:
    """Rows up to the edge of their stratum in the order of `key`, marked in `column`.

    `bitmap` has the same rows, where they are known by their positions.
    """

    column: str
    key: pl.Expr
    edges: Mapping[int, SelectionEdge]
    bitmap: Bitmap | None

    def add(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        keyed = rows.with_columns(self.key.alias(KEY))
        return top_m.with_mark(keyed, self.edges, column=self.column)


def include_rows(
    keyed: MappedChunks,
    allocation: Allocation,
    *,
    strategy: Strategy,
    candidates: Candidates,
    explore_key: pl.Expr,
    guess: top_m.Guess | None,
    pilot: PilotRows | None,
) -> IncludedRows:
    """Select the rows with the largest keys, then explore.

    Args:
        keyed: rows with ELIGIBLE, KEY, COST, STRATUM and the strategy's columns.
        allocation: budgets; `available` may be None only with a guess.
        strategy: gives the probabilities.
        candidates: as passed to the strategy's `key`.
        explore_key: a second uniform number per row.
        guess: only for one stratum with a budget in samples; makes the search faster.
        pilot: as `guess`, for the exploration.

    Raises:
        TooFewError: fewer rows are eligible than the budget needs.
    """
    budgets, available = allocation.strategy_budgets, allocation.available
    with _budget_in_errors(allocation):
        edges, num_rows, bitmap = _find_edges(keyed, budgets, guess=guess)
    if num_rows is not None:
        require_rows(allocation.budgets[0], eligible=num_rows)
        available = {0: num_rows}
    assert available is not None
    marks = [_Mark(INCLUDED, pl.col(KEY), edges, bitmap)]
    if allocation.explore:
        exclude = functools.partial(_exclude_included, key=explore_key)
        if pilot is not None:
            others = exclude(marks[0].add(pilot.rows.lazy())).collect()
            pilot = PilotRows(others, available[0] - budgets[0])
        others_of_all = _with_marks(keyed, marks, then=exclude)
        explore_edges, _, bitmap = _find_edges(
            others_of_all, allocation.explore_budgets, guess=pilot.keys if pilot else None
        )
        marks.append(_Mark(EXPLORED, explore_key, explore_edges, bitmap))
    amounts = _amounts_per_stratum(allocation, available, edges)
    probability = _strategy_probability(strategy, candidates, amounts)
    finish = functools.partial(
        _finish,
        amounts=amounts,
        probability=probability,
        explores=bool(allocation.explore),
        marks_origin=allocation.has_both_origins,
    )
    rows = _with_marks(keyed, marks, then=finish, only_marked=True)
    ids = _without_columns(rows, probability, finish=finish)
    return IncludedRows(rows, ids, edges, available)


@contextmanager
def _budget_in_errors(allocation: Allocation) -> Iterator[None]:
    """Name the whole budget where the strategy's share of it is more than what is eligible."""
    try:
        yield
    except TooFewError as error:
        require_rows(sum(allocation.budgets.values()), eligible=error.eligible)
        raise


def _find_edges(
    keyed: Chunks, budgets: Mapping[int, int], *, guess: top_m.Guess | None
) -> tuple[Mapping[int, SelectionEdge], int | None, Bitmap | None]:
    """Return the edges; with a guess also the number of eligible rows, and those up to the edge."""
    if guess is None:
        return radix.find_edges(MappedChunks(keyed, top_m.only_eligible), budgets), None, None
    search = top_m.find_edge(keyed, budgets[0], guess=guess)
    return {0: search.edge}, search.num_rows, search.rows


def _exclude_included(rows: pl.LazyFrame, *, key: pl.Expr) -> pl.LazyFrame:
    """Make the included rows ineligible, and order the others by `key`."""
    is_other = pl.col(ELIGIBLE) & pl.col(INCLUDED).not_()
    return rows.with_columns(is_other.alias(ELIGIBLE), key.alias(KEY))


def _with_marks(
    keyed: MappedChunks, marks: Sequence[_Mark], *, then: Transform, only_marked: bool = False
) -> Chunks:
    """Return `then` of the rows with their marks, which are read from bitmaps or computed again."""
    add_marks = functools.reduce(FunctionChain, [mark.add for mark in marks])
    computed = MappedChunks(keyed, FunctionChain(add_marks, then))
    bitmaps = {mark.column: mark.bitmap for mark in marks if mark.bitmap is not None}
    if len(bitmaps) < len(marks) or not isinstance(keyed.chunks, PlacedChunks):
        return computed
    finish = FunctionChain(keyed.transform, then)
    return MarkedChunks(keyed.chunks, bitmaps, finish, computed, only_marked)


def _without_columns(rows: Chunks, probability: pl.Expr, *, finish: Transform) -> Chunks:
    """Return the marked rows; no columns are read if the probability needs none."""
    if not isinstance(rows, MarkedChunks):
        return rows
    has_losses = len(rows.marks) == 1 and rows.marks[INCLUDED].has_values
    column = LOSS if has_losses else None
    if not set(probability.meta.root_names()) <= {*_AMOUNTS, column}:
        return rows
    ids = rows.chunks.only([SHARD_ID, ROW])
    return replace(rows, chunks=ids, finish=finish, value_column=column)


def _only_marked(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.any_horizontal(pl.col(name) for name in _marks_of(rows)))


def _marks_of(rows: pl.LazyFrame) -> list[str]:
    kinds = rows.collect_schema()
    return [name for name in (INCLUDED, EXPLORED) if name in kinds]


def _finish(
    rows: pl.LazyFrame,
    *,
    amounts: pl.DataFrame,
    probability: pl.Expr,
    explores: bool,
    marks_origin: bool,
) -> pl.LazyFrame:
    """Return the marked rows with PROBABILITY, and with ORIGIN if both marks count."""
    rows = with_stratum_values(_only_marked(rows), amounts).with_columns(probability)
    if not explores:
        return rows
    # If a row with probability 1 is not included, the strategy is deterministic and excludes it.
    is_out = (pl.col(PROBABILITY) == 1.0) & pl.col(INCLUDED).not_()
    by_strategy = pl.when(is_out).then(0.0).otherwise(pl.col(PROBABILITY))
    in_all = by_strategy + (1.0 - by_strategy) * pl.col(_EXPLORE_SHARE)
    columns = [in_all.alias(PROBABILITY)]
    if marks_origin:
        origin = pl.when(INCLUDED).then(FROM_KEY).otherwise(FROM_UNIFORM)
        columns.append(origin.cast(INDEX_ORIGIN[ORIGIN]).alias(ORIGIN))
    return rows.with_columns(columns)


def _strategy_probability(
    strategy: Strategy, candidates: Candidates, amounts: pl.DataFrame
) -> pl.Expr:
    """Return PROBABILITY: that the strategy selects the row."""
    cutoff = Cutoff(pl.col(_SPENT), pl.col(_AVAILABLE), pl.col(FIRST_EXCLUDED))
    probability = (
        pl.when(pl.col(_SPENT) == 0)
        .then(0.0)
        .when(pl.col(FIRST_EXCLUDED).is_not_null())
        .then(strategy.probability(candidates, cutoff).clip(0.0, 1.0))
        .otherwise(1.0)
    )
    if len(amounts) == 1 and set(probability.meta.root_names()) <= _AMOUNTS.keys():
        probability = pl.lit(amounts.select(probability).item(), dtype=pl.Float64)
    return probability.alias(PROBABILITY)


def _amounts_per_stratum(
    allocation: Allocation, available: Mapping[int, int], edges: Mapping[int, SelectionEdge]
) -> pl.DataFrame:
    """Return per stratum the strategy's budget, what is available, the explored share, and
    FIRST_EXCLUDED.
    """
    rows = []
    for stratum, budget in allocation.strategy_budgets.items():
        share = allocation.explore_budgets[stratum] / max(1, available[stratum] - budget)
        first_excluded = edges[stratum].first_excluded
        key = None if first_excluded is None else first_excluded.key
        rows.append((stratum, float(budget), float(available[stratum]), min(1.0, share), key))
    return pl.DataFrame(rows, schema=_AMOUNTS, orient="row")
