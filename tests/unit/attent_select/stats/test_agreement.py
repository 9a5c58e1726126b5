"""Kolmogorov–Smirnov distance and rank correlation of losses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attent_select.stats.agreement import MIN_VALUES, ks_distance, rank_correlation

VALUES = arrays(np.float32, st.integers(MIN_VALUES, 200), elements=st.floats(0, 8, width=32))


@given(VALUES, VALUES)
def test_the_ks_distance_is_a_symmetric_number_between_0_and_1(
    one: np.ndarray, other: np.ndarray
) -> None:
    distance = ks_distance(one, other)
    assert distance is not None
    assert 0 <= distance <= 1
    assert distance == ks_distance(other, one)
    assert ks_distance(one, one) == 0


@given(VALUES, VALUES)
def test_the_ks_distance_is_the_largest_gap_between_two_shares(
    one: np.ndarray, other: np.ndarray
) -> None:
    gaps = [abs((one <= x).mean() - (other <= x).mean()) for x in np.concatenate([one, other])]
    assert ks_distance(one, other) == pytest.approx(max(gaps))


def test_the_ks_distance_grows_with_a_shift_up_to_1() -> None:
    losses = np.random.default_rng(0).gamma(2, 1, 5000)
    assert ks_distance(losses, losses + 100) == 1
    distances = [ks_distance(losses, losses + shift) for shift in (0.0, 0.1, 0.5, 2.0)]
    assert distances == sorted(distances)
    assert len(set(distances)) == 4


@given(VALUES)
def test_rank_correlation_is_invariant_under_increasing_transformations(one: np.ndarray) -> None:
    correlation = rank_correlation(one, 8 * one.astype(float))
    if len(set(one.tolist())) == 1:
        assert correlation is None
    else:
        assert correlation == pytest.approx(1)
        assert rank_correlation(one, -one.astype(float)) == pytest.approx(-1)


def test_independent_losses_do_not_agree_and_noise_lowers_agreement() -> None:
    random = np.random.default_rng(0)
    losses, noise = random.gamma(2, 1, 4000), random.normal(0, 1, 4000)
    correlations = [
        rank_correlation(losses, losses + scale * noise) or 0 for scale in (0.0, 0.5, 2.0)
    ]
    assert correlations == sorted(correlations, reverse=True)
    assert abs(rank_correlation(losses, noise) or 0) < 0.05


def test_too_few_finite_values_give_no_result() -> None:
    few = np.arange(MIN_VALUES - 1, dtype=float)
    holes = np.concatenate([few, [np.nan, np.inf]])
    for values in (few, holes):
        assert ks_distance(values, np.arange(100.0)) is None
        assert rank_correlation(values, values) is None
