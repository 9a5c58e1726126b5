"""What a round costs, and how much re-scoring is worth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.schedule.cost import MIN_SHARE, RoundSeconds, ScoringCost, need

SHARES = st.floats(0, 1)
PHIS = st.floats(0.01, 10)
EPOCHS = st.floats(0.01, 20)


def phi(value: float) -> ScoringCost:
    return ScoringCost(value, "measured")


@given(PHIS, SHARES, EPOCHS)
def test_the_worthwhile_share_is_the_cheapest(cost: float, lacking: float, trained: float) -> None:
    def total(share: np.ndarray | float) -> np.ndarray:
        return cost * np.asarray(share) + trained * lacking * (1 - np.asarray(share)) ** 2

    found = phi(cost).worthwhile(need=lacking, trained=trained)
    assert MIN_SHARE <= found <= 1
    shares = np.linspace(MIN_SHARE, 1, 200)
    assert total(found) <= total(shares).min() + 1e-9


@given(PHIS, PHIS, SHARES, SHARES, EPOCHS, EPOCHS)
def test_more_need_and_longer_rounds_never_ask_for_less_and_a_higher_price_never_for_more(
    cost: float, other_cost: float, lacking: float, other: float, trained: float, longer: float
) -> None:
    def share(*, cost: float, lacking: float, trained: float) -> float:
        return phi(cost).worthwhile(need=lacking, trained=trained)

    here = {"cost": cost, "lacking": lacking, "trained": trained}
    for key, value, sign in (
        ("lacking", other, 1),
        ("trained", longer, 1),
        ("cost", other_cost, -1),
    ):
        change = share(**{**here, key: value}) - share(**here)
        assert change * sign * (value - here[key]) >= 0


def test_a_round_costs_its_epochs_and_its_share_of_scoring() -> None:
    assert phi(0.25).round_cost(trained=2 * 0.5, share=0.1) == pytest.approx(1.025)


def test_losses_that_did_not_move_need_only_be_watched() -> None:
    assert phi(0.1).worthwhile(need=0.0, trained=5.0) == MIN_SHARE


@given(SHARES, SHARES, st.floats(-1, 1), SHARES)
def test_the_need_is_a_share_that_grows_with_drift_and_falls_with_what_training_observed(
    drift: float, more: float, agreement: float, covered: float
) -> None:
    found = need(drift, agreement=agreement, covered=covered)
    assert 0 <= found <= drift
    assert need(max(drift, more), agreement=agreement, covered=covered) >= found
    assert need(drift, agreement=max(agreement, more), covered=covered) <= found
    assert need(drift, agreement=agreement, covered=max(covered, more)) <= need(
        drift, agreement=agreement, covered=min(covered, more)
    )


def test_the_price_is_measured_as_soon_as_a_round_tells_and_says_so() -> None:
    assert ScoringCost.of([], adapters=False) == ScoringCost(1 / 3, "prior")
    assert ScoringCost.of([], adapters=True) == ScoringCost(1 / 2, "prior")
    warm_up = RoundSeconds(scored=0, score_seconds=0, trained=1000, train_seconds=10)
    assert ScoringCost.of([warm_up], adapters=False).source == "prior"
    # The first scoring starts the workers; the median forgets it.
    slow = RoundSeconds(scored=1000, score_seconds=30, trained=500, train_seconds=5)
    usual = RoundSeconds(scored=100, score_seconds=0.2, trained=500, train_seconds=5)
    found = ScoringCost.of([warm_up, slow, usual, usual], adapters=True)
    assert found == ScoringCost(pytest.approx(0.2), "measured")
