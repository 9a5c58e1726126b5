import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.stats.equivalence import Multiple, MultipleInterval, equivalent_multiple

UNIFORM = {1.0: 4.0, 2.0: 3.5, 4.0: 3.0}


@given(
    slope=st.floats(0.05, 2),
    multiple=st.floats(0.51, 7.9),
    cost=st.floats(0.1, 1e9),
)
def test_a_policy_on_the_curve_has_the_multiple_it_was_made_with(
    slope: float, multiple: float, cost: float
) -> None:
    uniform = {size * cost: 5 - slope * math.log(size) for size in (0.5, 1, 2, 4, 8)}
    result = equivalent_multiple(uniform, cost=cost, loss=5 - slope * math.log(multiple))
    assert result.value == pytest.approx(multiple, rel=1e-6)
    assert not result.is_at_least
    assert not result.is_at_most


@given(better=st.floats(2.9, 4.1), worse=st.floats(2.9, 4.1))
def test_a_lower_loss_never_has_a_smaller_multiple(better: float, worse: float) -> None:
    better, worse = sorted((better, worse))
    first, second = (equivalent_multiple(UNIFORM, cost=1, loss=loss) for loss in (better, worse))
    assert first.value >= second.value


def test_beyond_the_ends_of_the_curve_a_multiple_is_a_bound() -> None:
    assert equivalent_multiple(UNIFORM, cost=1, loss=2.9) == Multiple(4, is_at_least=True)
    assert equivalent_multiple(UNIFORM, cost=1, loss=4.0) == Multiple(1, is_at_most=True)


def test_a_longer_run_that_is_worse_is_left_out() -> None:
    uniform = {1.0: 4.0, 2.0: 4.2, 4.0: 3.0}
    assert equivalent_multiple(uniform, cost=1, loss=3.5).value == pytest.approx(2)


def test_a_curve_needs_two_runs_and_positive_costs() -> None:
    with pytest.raises(ValueError, match="two uniform runs"):
        equivalent_multiple({1.0: 4.0}, cost=1, loss=3)
    with pytest.raises(ValueError, match="not positive"):
        equivalent_multiple(UNIFORM, cost=0, loss=3)


def test_the_interval_is_geometric_and_a_bound_if_one_seed_is() -> None:
    same = MultipleInterval.of([Multiple(2), Multiple(8)])
    assert same.mean == pytest.approx(4)
    assert same.low is not None
    assert same.high is not None
    assert same.low * same.high == pytest.approx(16)
    assert not same.is_at_least
    assert MultipleInterval.of([Multiple(2), Multiple(4, is_at_least=True)]).is_at_least
    single = MultipleInterval.of([Multiple(2, is_at_most=True)])
    assert (single.low, single.high, single.is_at_most) == (None, None, True)
