"""Means, differences of pairs, and Student's t."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from attent_select.stats.confidence import ConfidenceInterval, paired_difference, student_t

NUMBERS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 29, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_student_t_is_that_of_the_tables(degrees: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert student_t(degrees, confidence=confidence) == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_three_values_is_known() -> None:
    found = ConfidenceInterval.of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high == pytest.approx(2 + 4.302652729749464 / math.sqrt(3))
    assert found.low == pytest.approx(2 - 4.302652729749464 / math.sqrt(3))


@given(st.lists(NUMBERS, min_size=2, max_size=9), NUMBERS)
def test_an_interval_holds_its_mean_and_moves_with_the_values(
    values: list[float], shift: float
) -> None:
    found, moved = (
        ConfidenceInterval.of(values),
        ConfidenceInterval.of([value + shift for value in values]),
    )
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert moved.mean == pytest.approx(found.mean + shift, abs=1e-3)
    assert not (found.is_above_zero and found.is_below_zero)


def test_one_value_tells_no_spread_and_shows_nothing() -> None:
    found = ConfidenceInterval.of([7.0])
    assert (found.mean, found.low, found.high, found.count) == (7.0, None, None, 1)
    assert not found.is_above_zero


@given(st.dictionaries(st.integers(0, 9), NUMBERS), st.dictionaries(st.integers(0, 9), NUMBERS))
def test_only_seeds_that_both_have_are_compared(
    ours: dict[int, float], theirs: dict[int, float]
) -> None:
    found, back = paired_difference(ours, theirs), paired_difference(theirs, ours)
    common = ours.keys() & theirs.keys()
    if not common:
        assert found is None
        return
    assert found is not None
    assert back is not None
    assert found.count == len(common)
    assert back.mean == pytest.approx(-found.mean)


def test_a_pair_is_compared_with_its_own_seed() -> None:
    # Seeds differ far more than arms do: unpaired, nothing would show.
    ours, theirs = {0: 11.0, 1: 101.1, 2: 1000.9}, {0: 10.0, 1: 100.0, 2: 1000.0}
    found = paired_difference(ours, theirs)
    assert found is not None
    assert found.is_above_zero
    assert found.mean == pytest.approx(1.0)
