"""Calibration of observed losses to scored losses."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attent_select.stats.quantile_map import QuantileMap, Trend

LOSSES = st.floats(0, 20, width=32)
PAIRS = arrays(np.float32, st.tuples(st.integers(32, 300), st.just(2)), elements=LOSSES)


def fit_map(observed: np.ndarray, scored: np.ndarray) -> QuantileMap:
    quantile_map = QuantileMap.fit(observed, scored)
    assert quantile_map is not None
    return quantile_map


@given(PAIRS, arrays(np.float32, 50, elements=st.floats(-5, 40, width=32)))
def test_a_map_preserves_order_and_never_gives_negative_losses(
    pairs: np.ndarray, losses: np.ndarray
) -> None:
    mapped = fit_map(pairs[:, 0], pairs[:, 1])(np.sort(losses))
    assert (np.diff(mapped) >= 0).all()
    assert (mapped >= 0).all()
    assert mapped.shape == losses.shape


@given(PAIRS)
def test_values_of_the_fit_are_mapped_into_the_range_of_the_scored_losses(
    pairs: np.ndarray,
) -> None:
    mapped = fit_map(pairs[:, 0], pairs[:, 1])(pairs[:, 0])
    assert mapped.min() >= pairs[:, 1].min() - 1e-5
    assert mapped.max() <= pairs[:, 1].max() + 1e-5


def test_mapped_losses_have_the_distribution_of_the_scored_losses() -> None:
    random = np.random.default_rng(0)
    scored = random.gamma(2, 0.5, 20_000)
    # Train mode: larger, wider, with independent noise.
    observed = 0.3 + 1.4 * scored + random.normal(0, 0.1, 20_000)
    half = fit_map(observed[::2], scored[::2])
    mapped = half(observed[1::2])
    for share in (0.1, 0.5, 0.9, 0.99):
        expected = np.quantile(scored[1::2], share)
        assert np.quantile(mapped, share) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert abs(mapped.mean() - scored.mean()) < 0.02 < abs(observed.mean() - scored.mean())


def test_losses_outside_the_range_of_the_fit_keep_their_differences() -> None:
    observed = np.linspace(1, 2, 100)
    quantile_map = fit_map(observed, observed / 2)
    assert quantile_map(np.array([2.0, 5.0, 6.0])).tolist() == pytest.approx([1.0, 4.0, 5.0])
    assert quantile_map(np.array([0.9, 0.0])).tolist() == pytest.approx([0.4, 0.0])


def test_equal_observed_losses_are_mapped_to_the_mean_scored_loss() -> None:
    quantile_map = fit_map(np.ones(65), np.arange(65.0))
    assert quantile_map(np.array([1.0])).tolist() == [32.0]


def test_too_few_rows_give_no_map_and_the_default_map_is_the_identity() -> None:
    holes = np.full(100, np.nan)
    holes[:31] = 1.0
    assert QuantileMap.fit(holes, np.ones(100)) is None
    losses = np.array([0.5, 3.0], dtype=np.float32)
    assert QuantileMap()(losses).tolist() == [0.5, 3.0]


@given(PAIRS)
def test_a_map_can_be_stored_as_json(pairs: np.ndarray) -> None:
    quantile_map = fit_map(pairs[:, 0], pairs[:, 1])
    assert QuantileMap.from_dict(json.loads(json.dumps(quantile_map.to_dict()))) == quantile_map


def test_a_trend_removes_the_advantage_of_samples_seen_late() -> None:
    random = np.random.default_rng(0)
    difficulty = random.gamma(2, 0.5, 8_000)
    steps = np.arange(8_000) // 16
    observed = difficulty * (0.5 + 2.5 * np.exp(-steps / 60))  # the model learns
    hardest = np.argsort(difficulty)[-2_000:]
    hardest_by_trend = np.argsort(Trend.fit(observed, steps)(observed, steps))[-2_000:]
    as_observed = np.argsort(observed)[-2_000:]
    assert len(np.intersect1d(hardest_by_trend, hardest)) > 1_850
    assert len(np.intersect1d(as_observed, hardest)) < 1_600
    assert steps[hardest_by_trend].mean() == pytest.approx(steps.mean(), rel=0.05)


@given(
    arrays(np.float32, st.integers(0, 700), elements=LOSSES),
    st.integers(1, 50),
    st.integers(0, 1_000),
)
def test_a_trend_preserves_the_order_within_a_step(
    losses: np.ndarray, batch_size: int, first_step: int
) -> None:
    steps = first_step + np.arange(len(losses)) // batch_size
    mapped = Trend.fit(losses, steps)(losses, steps)
    assert mapped.shape == losses.shape
    for step in np.unique(steps):
        together = np.argsort(losses[steps == step], kind="stable")
        assert (np.diff(mapped[steps == step][together]) >= 0).all()


def test_too_few_losses_are_not_changed() -> None:
    losses, steps = np.linspace(3, 1, 100), np.arange(100)
    assert Trend.fit(losses, steps)(losses, steps).tolist() == losses.tolist()
