"""Observed losses on the scale of scored ones."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attent_select.stats.quantile_map import QuantileMap, Trend

LOSSES = st.floats(0, 20, width=32)
PAIRS = arrays(np.float32, st.tuples(st.integers(32, 300), st.just(2)), elements=LOSSES)


def fitted(observed: np.ndarray, scored: np.ndarray) -> QuantileMap:
    found = QuantileMap.fit(observed, scored)
    assert found is not None
    return found


@given(PAIRS, arrays(np.float32, 50, elements=st.floats(-5, 40, width=32)))
def test_a_map_never_turns_the_order_around_and_never_leaves_the_losses(
    pairs: np.ndarray, losses: np.ndarray
) -> None:
    mapped = fitted(pairs[:, 0], pairs[:, 1])(np.sort(losses))
    assert (np.diff(mapped) >= 0).all()
    assert (mapped >= 0).all()
    assert mapped.shape == losses.shape


@given(PAIRS)
def test_what_it_was_fitted_on_gets_no_value_that_nobody_had(pairs: np.ndarray) -> None:
    mapped = fitted(pairs[:, 0], pairs[:, 1])(pairs[:, 0])
    assert mapped.min() >= pairs[:, 1].min() - 1e-5
    assert mapped.max() <= pairs[:, 1].max() + 1e-5


def test_observed_losses_get_the_distribution_of_the_scored_ones() -> None:
    random = np.random.default_rng(0)
    scored = random.gamma(2, 0.5, 20_000)
    # Train mode: larger, wider, with noise that does not depend on the sample.
    observed = 0.3 + 1.4 * scored + random.normal(0, 0.1, 20_000)
    half = fitted(observed[::2], scored[::2])
    mapped = half(observed[1::2])
    for share in (0.1, 0.5, 0.9, 0.99):
        expected = np.quantile(scored[1::2], share)
        assert np.quantile(mapped, share) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert abs(mapped.mean() - scored.mean()) < 0.02 < abs(observed.mean() - scored.mean())


def test_beyond_what_was_seen_the_hardest_rows_keep_their_distances() -> None:
    observed = np.linspace(1, 2, 100)
    found = fitted(observed, observed / 2)
    assert found(np.array([2.0, 5.0, 6.0])).tolist() == pytest.approx([1.0, 4.0, 5.0])
    assert found(np.array([0.9, 0.0])).tolist() == pytest.approx([0.4, 0.0])


def test_equal_observed_losses_are_mapped_to_the_mean_of_what_was_scored() -> None:
    found = fitted(np.ones(65), np.arange(65.0))
    assert found(np.array([1.0])).tolist() == [32.0]


def test_few_rows_make_no_map_and_the_identity_changes_nothing() -> None:
    holes = np.full(100, np.nan)
    holes[:31] = 1.0
    assert QuantileMap.fit(holes, np.ones(100)) is None
    losses = np.array([0.5, 3.0], dtype=np.float32)
    assert QuantileMap()(losses).tolist() == [0.5, 3.0]


@given(PAIRS)
def test_a_map_survives_json(pairs: np.ndarray) -> None:
    found = fitted(pairs[:, 0], pairs[:, 1])
    assert QuantileMap.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_sample_does_not_seem_harder_because_it_came_early() -> None:
    random = np.random.default_rng(0)
    difficulty = random.gamma(2, 0.5, 8_000)
    steps = np.arange(8_000) // 16
    observed = difficulty * (0.5 + 2.5 * np.exp(-steps / 60))  # the model learns
    hardest = np.argsort(difficulty)[-2_000:]
    found = np.argsort(Trend.fit(observed, steps)(observed, steps))[-2_000:]
    as_observed = np.argsort(observed)[-2_000:]
    assert len(np.intersect1d(found, hardest)) > 1_850
    assert len(np.intersect1d(as_observed, hardest)) < 1_600
    assert steps[found].mean() == pytest.approx(steps.mean(), rel=0.05)


@given(
    arrays(np.float32, st.integers(0, 700), elements=LOSSES),
    st.integers(1, 50),
    st.integers(0, 1_000),
)
def test_a_trend_keeps_the_order_of_samples_that_were_observed_together(
    losses: np.ndarray, batch_size: int, first_step: int
) -> None:
    steps = first_step + np.arange(len(losses)) // batch_size
    mapped = Trend.fit(losses, steps)(losses, steps)
    assert mapped.shape == losses.shape
    for step in np.unique(steps):
        together = np.argsort(losses[steps == step], kind="stable")
        assert (np.diff(mapped[steps == step][together]) >= 0).all()


def test_a_few_losses_have_no_trend_and_stay_as_they_are() -> None:
    losses, steps = np.linspace(3, 1, 100), np.arange(100)
    assert Trend.fit(losses, steps)(losses, steps).tolist() == losses.tolist()
