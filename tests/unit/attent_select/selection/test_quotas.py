"""Quotas: dividing a budget among strata."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.selection.quotas import allocate

AVAILABLE = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50), min_size=1)


@given(AVAILABLE, st.data())
def test_an_allocation_uses_the_budget_and_never_more_than_is_available(
    available: dict[str, int], data: st.DataObject
) -> None:
    budget = data.draw(st.integers(0, sum(available.values())))
    for quotas in ("equal", "proportional", dict.fromkeys(available, 0.5)):
        allocation = allocate(budget, available=available, quotas=quotas)
        assert sum(allocation.values()) == budget
        assert all(0 <= allocation[name] <= available[name] for name in available)


def test_shares_are_kept_until_a_stratum_is_used_up() -> None:
    available = {"a": 100, "b": 10, "c": 100}
    assert allocate(30, available=available, quotas="equal") == {"a": 10, "b": 10, "c": 10}
    assert allocate(60, available=available, quotas="equal") == {"a": 25, "b": 10, "c": 25}
    assert allocate(21, available=available, quotas="proportional") == {"a": 10, "b": 1, "c": 10}
    assert allocate(40, available=available, quotas={"a": 3, "c": 1}) == {"a": 30, "b": 0, "c": 10}


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"x": 1}, "unknown stratum x; expected a, b"),
        ({"a": -1}, "share of a is not a finite number"),
        ({"a": float("inf")}, "share of a is not a finite number"),
        ({"a": 1}, "only 5"),
    ],
)
def test_impossible_quotas_are_input_errors(quotas: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate(6, available={"a": 5, "b": 5}, quotas=quotas)
