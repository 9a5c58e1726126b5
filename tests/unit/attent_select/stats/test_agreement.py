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
    found = ks_distance(one, other)
    assert found is not None
    assert 0 <= found <= 1
    assert found == ks_distance(other, one)
    assert ks_distance(one, one) == 0


@given(VALUES, VALUES)
def test_the_ks_distance_is_the_largest_gap_between_two_shares(
    one: np.ndarray, other: np.ndarray
) -> None:
    gaps = [abs((one <= x).mean() - (other <= x).mean()) for x in np.concatenate([one, other])]
    assert ks_distance(one, other) == pytest.approx(max(gaps))


def test_distributions_that_do_not_meet_are_1_apart_and_a_shift_grows_the_distance() -> None:
    losses = np.random.default_rng(0).gamma(2, 1, 5000)
    assert ks_distance(losses, losses + 100) == 1
    found = [ks_distance(losses, losses + shift) for shift in (0.0, 0.1, 0.5, 2.0)]
    assert found == sorted(found)
    assert len(set(found)) == 4


@given(VALUES)
def test_ranks_agree_with_every_increasing_change_of_scale(one: np.ndarray) -> None:
    found = rank_correlation(one, 8 * one.astype(float))
    if len(set(one.tolist())) == 1:
        assert found is None
    else:
        assert found == pytest.approx(1)
        assert rank_correlation(one, -one.astype(float)) == pytest.approx(-1)


def test_independent_losses_do_not_agree_and_noise_lowers_agreement() -> None:
    random = np.random.default_rng(0)
    losses, noise = random.gamma(2, 1, 4000), random.normal(0, 1, 4000)
    found = [rank_correlation(losses, losses + scale * noise) or 0 for scale in (0.0, 0.5, 2.0)]
    assert found == sorted(found, reverse=True)
    assert abs(rank_correlation(losses, noise) or 0) < 0.05


def test_too_few_values_say_nothing_and_what_is_not_finite_does_not_count() -> None:
    few = np.arange(MIN_VALUES - 1, dtype=float)
    holes = np.concatenate([few, [np.nan, np.inf]])
    for values in (few, holes):
        assert ks_distance(values, np.arange(100.0)) is None
        assert rank_correlation(values, values) is None
