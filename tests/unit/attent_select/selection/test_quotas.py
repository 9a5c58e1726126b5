"""Quotas: dividing a budget among strata."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.selection.quotas import MovingQuotas, allocate, moved_shares

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


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 1), min_size=1),
    st.data(),
    st.floats(0, 1 / 6),
    st.floats(0.1, 5),
)
def test_moved_shares_add_up_keep_the_least_share_and_follow_the_excess(
    shares: dict[str, float], data: st.DataObject, least: float, rate: float
) -> None:
    losses = st.floats(-500, 500)
    excess = data.draw(st.dictionaries(st.sampled_from(sorted(shares)), losses))
    quotas = MovingQuotas("reference_loss", min_share=least, rate=rate)
    moved = moved_shares(shares, excess, quotas=quotas)
    assert moved.keys() == shares.keys()
    assert sum(moved.values()) == pytest.approx(1)
    assert min(moved.values()) >= least
    total = sum(shares.values())
    equal = dict.fromkeys(shares, 1 / len(shares))
    after = moved_shares(equal, excess, quotas=quotas)
    by_gain = sorted(equal, key=lambda name: max(excess.get(name, 0.0), 0.0))
    assert all(after[a] <= after[b] + 1e-12 for a, b in pairwise(by_gain))
    if all(value <= 0 for value in excess.values()):
        rest = 1 - least * len(shares)
        for name, share in shares.items():
            assert moved[name] == pytest.approx(rest * share / total + least)


def test_moved_shares_are_those_of_the_published_update() -> None:
    shares, excess = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.4, "b": -1.0, "c": 1.2}
    quotas = MovingQuotas("reference_loss", min_share=0.1, rate=1.0)
    # α′ = α · exp(η λ), normalised, then (1 − c) α′ + c u with c = 3 · 0.1 and u = 1/3.
    raised = {"a": 0.5 * math.exp(0.4), "b": 0.3, "c": 0.2 * math.exp(1.2)}
    expected = {
        name: 0.7 * value / sum(raised.values()) + 0.3 / 3 for name, value in raised.items()
    }
    assert moved_shares(shares, excess, quotas=quotas) == pytest.approx(expected)


def test_one_selection_cannot_move_quotas() -> None:
    with pytest.raises(InputError, match=r"kind excess moves between the rounds of a run"):
        allocate(2, available={"a": 5}, quotas=MovingQuotas("reference_loss"))
    with pytest.raises(InputError, match=r"min_share: 0\.3 for each of 4 strata is 1\.2 together"):
        MovingQuotas("reference_loss", min_share=0.3).check_strata(4)
