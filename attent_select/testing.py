"""Conformance suite of selection strategies, for pytest.

Derive from `StrategyConformance`, provide the fixture `strategy`, and pytest runs the whole suite:

    from dataclasses import dataclass
    from typing import ClassVar

    import polars as pl
    import pytest

    from attent_select import Candidates, Cutoff
    from attent_select.testing import StrategyConformance


    @dataclass(frozen=True)
    class FewVisits:
        needs_distribution: ClassVar[bool] = False

        @property
        def columns(self) -> tuple[str, ...]:
            return ("visits",)

        def key(self, candidates: Candidates) -> pl.Expr:
            return candidates.uniform - pl.col("visits").cast(pl.Float64)

        def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
            return 1.0 - cutoff.first_excluded - pl.col("visits").cast(pl.Float64)


    class TestFewVisits(StrategyConformance):
        @pytest.fixture
        def strategy(self) -> FewVisits:
            return FewVisits()

A parametrised fixture tests several strategies or settings. If a strategy reads other columns than
`losses` has, override it:

        def losses(self, num_rows: int, *, seed: int = 0) -> pl.LazyFrame:
            rows = super().losses(num_rows, seed=seed)
            return rows.with_columns(quality=pl.col("loss") + 1)

This module does not import pytest.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np
import polars as pl

from attent_select.errors import TooFewError
from attent_select.schema import (
    FUNCTIONAL_GRADIENT,
    INDEX,
    LOSS,
    MEASURED_STEP,
    NUM_UNITS,
    PROBABILITY,
    ROW,
    SHARD_ID,
    VISITS,
    WEIGHT,
    numpy_sample_key,
)
from attent_select.selection.composition import Composition
from attent_select.selection.select import Preview, Selection, select
from attent_select.stats.gumbel import NoisyKeys
from attent_select.stats.histogram import Histogram, count_buckets
from attent_select.strategy import Candidates, HasNoisyLogit, Strategy

_ROWS_PER_SHARD: Final = 7
_ROUND_STEPS: Final = (0, 10, 20)
_NUM_SEEDS: Final = 100
# Seeds after which a strategy that has chosen nothing at random is not tried again.
_FEW_SEEDS: Final = 10


class StrategyConformance:
    """Tests of what every strategy promises. A subclass provides the fixture `strategy`."""

    # Largest relative standard error of the mean loss that
    # `test_losses_divided_by_probabilities_estimate_the_mean` accepts: small enough to notice
    # probabilities that are wrong by a tenth. Raise it if probabilities are very unequal.
    max_standard_error: ClassVar[float] = 0.025

    def losses(self, num_rows: int, *, seed: int = 0) -> pl.LazyFrame:
        """Return rows with the columns of a loss catalog and `source`; a tenth has no loss."""
        rng = np.random.default_rng(seed)
        position = np.arange(num_rows, dtype=np.uint32)
        loss = pl.Series(rng.gamma(1, 1, num_rows).round(2), dtype=pl.Float32)
        loss = loss.set(pl.Series(rng.random(num_rows) < 0.1), None)
        return pl.LazyFrame(
            {
                SHARD_ID: position // np.uint32(_ROWS_PER_SHARD),
                ROW: position % np.uint32(_ROWS_PER_SHARD),
                LOSS: loss,
                "reference_loss": pl.Series(rng.gamma(1, 0.5, num_rows), dtype=pl.Float32),
                FUNCTIONAL_GRADIENT: (loss / (loss + 1)).cast(pl.Float32),
                MEASURED_STEP: rng.choice(np.array(_ROUND_STEPS, dtype=np.uint64), num_rows),
                NUM_UNITS: rng.integers(1, 9, num_rows, dtype=np.uint32),
                VISITS: rng.integers(0, 4, num_rows).astype(np.uint16),
                "source": rng.choice(["book", "web", "code"], num_rows, p=[0.6, 0.3, 0.1]),
            }
        )

    def test_exactly_the_requested_number_of_distinct_rows_is_selected(
        self, strategy: Strategy
    ) -> None:
        losses = self.losses(1000)
        for num_samples in (0, 1, 123, _num_usable(losses, strategy)):
            selection = select(
                losses, strategy=strategy, num_samples=num_samples, round_steps=_ROUND_STEPS
            )
            rows = selection.rows.collect()
            assert dict(rows.schema) == INDEX
            assert len(rows) == selection.num_samples == num_samples
            assert len(set(_ids(rows))) == num_samples, "a row was selected twice"
            _check_probabilities(rows)
            assert (rows[WEIGHT] == 1.0).all()

    def test_rows_without_a_value_for_the_key_are_never_selected(self, strategy: Strategy) -> None:
        losses = self.losses(300)
        usable = losses.filter(_is_usable(strategy)).collect()
        selection = select(losses, strategy=strategy, num_samples=len(usable) // 2)
        assert selection.eligible == len(usable)
        assert set(_ids(selection.rows.collect())) <= set(_ids(usable))

    def test_parts_their_order_and_a_preview_do_not_change_the_selection(
        self, strategy: Strategy
    ) -> None:
        losses = self.losses(2000).collect()

        def select_from(rows: pl.LazyFrame, preview: Preview | None = None) -> Selection:
            return select(
                rows,
                strategy=strategy,
                ratio=0.3,
                seed=5,
                round_number=2,
                round_steps=_ROUND_STEPS,
                preview=preview,
            )

        expected = select_from(losses.lazy())
        selections = [select_from(losses.lazy(), Preview(len(losses), losses[::7].lazy()))]
        for num_parts in (2, 9):
            bounds = [i * len(losses) // num_parts for i in range(num_parts + 1)]
            parts = [losses[first:end] for first, end in pairwise(bounds)]
            selections.append(select_from(pl.concat(parts[::-1]).lazy()))
        for selection in selections:
            assert _ids(selection.rows.collect()) == _ids(expected.rows.collect())
            assert selection.threshold == expected.threshold

    def test_a_noisy_logit_is_the_key_and_its_search_finds_the_rows_within_bounds(
        self, strategy: Strategy
    ) -> None:
        if not isinstance(strategy, HasNoisyLogit):
            return
        rows = self._complete_losses(2000, strategy)
        losses = rows[LOSS].to_numpy()
        histogram = Histogram()
        histogram.add(*count_buckets(losses))
        candidates = Candidates(histogram.distribution(), stream=3, round_steps=_ROUND_STEPS)
        exact = rows.select(strategy.key(candidates).alias("key"))["key"].to_numpy()
        keys = NoisyKeys(strategy.noisy_logit(candidates), histogram.distribution())
        sample_keys = numpy_sample_key(rows[SHARD_ID].to_numpy(), rows[ROW].to_numpy())
        is_eligible = np.arange(len(losses)) % 3 != 0
        for shares in ((0.2, 0.3), (0.5, 0.5), (0.9, 1.0), (0.0, 1.0)):
            low, high = (float(np.quantile(exact, share)) for share in shares)
            search = keys.search(low, high)
            result = search(losses, sample_keys.__getitem__, is_eligible=is_eligible)
            assert (result.is_candidate == (is_eligible & (exact >= low))).all()
            assert result.num_above == (is_eligible & (exact > high)).sum()
            inside = np.flatnonzero(is_eligible & (exact >= low) & (exact <= high))
            assert (result.inside == inside).all()
            assert (result.keys == exact[inside]).all()

    def test_a_noisy_logit_brackets_the_key_of_every_rank(self, strategy: Strategy) -> None:
        if not isinstance(strategy, HasNoisyLogit):
            return
        rows = self._complete_losses(2000, strategy)
        histogram = Histogram()
        histogram.add(*count_buckets(rows[LOSS].to_numpy()))
        candidates = Candidates(histogram.distribution(), stream=3, round_steps=_ROUND_STEPS)
        keys = NoisyKeys(strategy.noisy_logit(candidates), histogram.distribution())
        exact = rows.select(strategy.key(candidates).alias("key"))["key"].sort(descending=True)
        for rank in (0, 1, 30, 700, 1999):
            low, high = keys.bracket(rank)
            assert low <= exact[rank] <= high
        low, high = keys.bracket(700)
        assert ((exact >= low) & (exact <= high)).sum() < 500

    def test_without_eligible_rows_a_budget_in_samples_is_an_error(
        self, strategy: Strategy
    ) -> None:
        nothing = Composition(where="shard_id < 0")
        losses = self.losses(50)
        eligible = None
        try:
            select(losses, strategy=strategy, num_samples=3, composition=nothing)
        except TooFewError as error:
            eligible = error.eligible
        assert eligible == 0, "expected TooFewError with 0 eligible rows"
        in_units = select(losses, strategy=strategy, num_units=3, composition=nothing)
        assert in_units.num_samples == len(in_units.rows.collect()) == 0

    def test_rows_with_equal_values_can_be_selected(self, strategy: Strategy) -> None:
        losses = self.losses(500)
        schema = losses.collect_schema()
        equal = [pl.lit(1, dtype=schema[name]).alias(name) for name in strategy.columns]
        rows = select(losses.with_columns(equal), strategy=strategy, num_samples=200).rows.collect()
        assert len(rows) == 200
        _check_probabilities(rows)

    def test_losses_divided_by_probabilities_estimate_the_mean(self, strategy: Strategy) -> None:
        """Horvitz and Thompson's estimate of the mean loss of the rows that can be selected.

        If every probability is 1, the selection must not be random.
        """
        losses = self._complete_losses(60, strategy)
        values = losses[LOSS].to_numpy().astype(np.float64)
        inverse = np.zeros((_NUM_SEEDS, len(losses)))
        for seed in range(_NUM_SEEDS):
            selection = select(losses.lazy(), strategy=strategy, num_samples=30, seed=seed)
            rows = selection.rows.collect()
            _check_probabilities(rows)
            at = rows[SHARD_ID].to_numpy() * _ROWS_PER_SHARD + rows[ROW].to_numpy()
            inverse[seed, at] = 1 / rows[PROBABILITY].to_numpy()
            if seed == _FEW_SEEDS and inverse.max() == 1.0:
                is_same = (inverse[: seed + 1] == inverse[0]).all()
                assert is_same, "probabilities of 1, but the selection is random"
                return
        is_possible = inverse.any(axis=0)
        estimates = inverse[:, is_possible] @ values[is_possible] / is_possible.sum()
        mean = values[is_possible].mean()
        standard_error = np.std(estimates) / math.sqrt(_NUM_SEEDS)
        assert abs(np.mean(estimates) - mean) < 4 * standard_error, "the probabilities are wrong"
        assert standard_error < self.max_standard_error * mean

    def test_quotas_exploration_guards_and_weights_compose(self, strategy: Strategy) -> None:
        losses = self.losses(2000)
        composition = Composition(
            by="source",
            quotas={"web": 2, "code": 1},
            explore=0.25,
            max_visits=2,
            where="num_units > 1",
            weights="inverse_probability",
        )
        selection = select(losses, strategy=strategy, num_samples=150, composition=composition)
        rows = selection.rows.join(losses, on=[SHARD_ID, ROW]).collect()
        assert dict(rows["source"].value_counts().iter_rows()) == {"web": 100, "code": 50}
        assert rows.filter(pl.col(NUM_UNITS) <= 1).is_empty()
        assert abs(float(rows[WEIGHT].to_numpy().mean()) - 1.0) < 1e-3

    def _complete_losses(self, num_rows: int, strategy: Strategy) -> pl.DataFrame:
        """Return losses in which every row has a loss and all columns of the strategy."""
        losses = self.losses(num_rows).collect()
        return losses.with_columns(pl.col(LOSS, *strategy.columns).fill_null(1))


def _is_usable(strategy: Strategy) -> pl.Expr:
    finite = [pl.col(name).cast(pl.Float64).is_finite() for name in strategy.columns]
    return pl.all_horizontal(pl.lit(value=True), *finite).fill_null(False)


def _num_usable(losses: pl.LazyFrame, strategy: Strategy) -> int:
    return len(losses.filter(_is_usable(strategy)).collect())


def _ids(rows: pl.DataFrame) -> Sequence[tuple[int, int]]:
    return sorted(rows.select(SHARD_ID, ROW).iter_rows())


def _check_probabilities(rows: pl.DataFrame) -> None:
    assert rows[PROBABILITY].is_between(0, 1, closed="right").all(), (
        "a probability is not in (0, 1]"
    )
