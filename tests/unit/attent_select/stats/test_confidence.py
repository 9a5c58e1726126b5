"""Confidence intervals of means and paired differences, and Student's t."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attent_select.stats.confidence import ConfidenceInterval, paired_difference, student_t

NUMBERS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 29, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_student_t_agrees_with_scipy(degrees: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert student_t(degrees, confidence=confidence) == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_three_values_is_known() -> None:
    interval = ConfidenceInterval.of([1.0, 2.0, 3.0])
    assert interval.mean == 2
    assert interval.high == pytest.approx(2 + 4.302652729749464 / math.sqrt(3))
    assert interval.low == pytest.approx(2 - 4.302652729749464 / math.sqrt(3))


@given(st.lists(NUMBERS, min_size=2, max_size=9), NUMBERS)
def test_an_interval_holds_its_mean_and_moves_with_the_values(
    values: list[float], shift: float
) -> None:
    interval, moved = (
        ConfidenceInterval.of(values),
        ConfidenceInterval.of([value + shift for value in values]),
    )
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low <= interval.mean <= interval.high
    assert moved.mean == pytest.approx(interval.mean + shift, abs=1e-3)
    assert not (interval.is_above_zero and interval.is_below_zero)


def test_a_single_value_has_no_bounds() -> None:
    interval = ConfidenceInterval.of([7.0])
    assert (interval.mean, interval.low, interval.high, interval.count) == (7.0, None, None, 1)
    assert not interval.is_above_zero


@given(st.dictionaries(st.integers(0, 9), NUMBERS), st.dictionaries(st.integers(0, 9), NUMBERS))
def test_only_seeds_that_both_have_are_compared(
    ours: dict[int, float], theirs: dict[int, float]
) -> None:
    interval, reverse = paired_difference(ours, theirs), paired_difference(theirs, ours)
    common = ours.keys() & theirs.keys()
    if not common:
        assert interval is None
        return
    assert interval is not None
    assert reverse is not None
    assert interval.count == len(common)
    assert reverse.mean == pytest.approx(-interval.mean)


def test_values_are_paired_by_seed() -> None:
    # Seeds differ far more than arms, so an unpaired comparison would show nothing.
    ours, theirs = {0: 11.0, 1: 101.1, 2: 1000.9}, {0: 10.0, 1: 100.0, 2: 1000.0}
    interval = paired_difference(ours, theirs)
    assert interval is not None
    assert interval.is_above_zero
    assert interval.mean == pytest.approx(1.0)
