"""The conformance suite accepts good strategies and rejects bad ones."""

import textwrap
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
import pytest

from attent_select import testing
from attent_select.strategies.hard import Hard
from attent_select.strategies.uniform import Uniform
from attent_select.strategy import Candidates, Cutoff, Strategy
from attent_select.testing import StrategyConformance


class TooLikely(Uniform):
    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return 1.2 * super().probability(candidates, cutoff)


class OrderOfTheRows(Hard):
    def key(self, candidates: Candidates) -> pl.Expr:
        return pl.int_range(pl.len()).cast(pl.Float64)


class RandomWithoutProbability(Uniform):
    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0)


class NegativeProbability(Uniform):
    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(-1.0)


@dataclass(frozen=True)
class BestQuality(Hard):
    """A strategy that reads a column that the suite does not have."""

    needs_distribution: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return ("quality",)

    def key(self, candidates: Candidates) -> pl.Expr:
        return pl.col("quality").cast(pl.Float64)


class WithQuality(StrategyConformance):
    def losses(self, num_rows: int, *, seed: int = 0) -> pl.LazyFrame:
        rows = super().losses(num_rows, seed=seed)
        return rows.with_columns(quality=-pl.col("loss"))


def failures(suite: StrategyConformance, strategy: Strategy) -> set[str]:
    failed = set()
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)(strategy)
            except AssertionError:
                failed.add(name)
    return failed


@pytest.mark.parametrize(
    ("strategy", "failing_test"),
    [
        (TooLikely(), "test_losses_divided_by_probabilities_estimate_the_mean"),
        (OrderOfTheRows(), "test_parts_their_order_and_a_preview_do_not_change_the_selection"),
        (
            RandomWithoutProbability(),
            "test_losses_divided_by_probabilities_estimate_the_mean",
        ),
        (
            NegativeProbability(),
            "test_exactly_the_requested_number_of_distinct_rows_is_selected",
        ),
    ],
    ids=["too likely", "order of the rows", "random without probability", "negative probability"],
)
def test_a_bad_strategy_fails_the_suite(strategy: Strategy, failing_test: str) -> None:
    assert failing_test in failures(StrategyConformance(), strategy)


def test_a_subclass_can_add_the_columns_of_its_strategy() -> None:
    assert failures(WithQuality(), BestQuality()) == set()


def test_the_example_of_the_module_passes_the_suite() -> None:
    text = testing.__doc__
    assert text is not None
    example = textwrap.dedent(text[text.index("    from datac") : text.index("A parametrised")])
    names: dict[str, Any] = {"__name__": "example"}
    exec(example, names)
    assert failures(names["TestFewVisits"](), names["FewVisits"]()) == set()
