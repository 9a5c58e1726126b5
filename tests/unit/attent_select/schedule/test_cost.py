"""Cost model of a round, and the share worth rescoring."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.schedule.cost import MIN_SHARE, RoundSeconds, ScoringCost, outdated_share

SHARES = st.floats(0, 1)
PHIS = st.floats(0.01, 10)
EPOCHS = st.floats(0.01, 20)


def phi(value: float) -> ScoringCost:
    return ScoringCost(value, "measured")


@given(PHIS, SHARES, EPOCHS)
def test_the_best_share_has_the_lowest_cost(cost: float, outdated: float, trained: float) -> None:
    def total(share: np.ndarray | float) -> np.ndarray:
        return cost * np.asarray(share) + trained * outdated * (1 - np.asarray(share)) ** 2

    best = phi(cost).best_share(outdated=outdated, trained=trained)
    assert MIN_SHARE <= best <= 1
    shares = np.linspace(MIN_SHARE, 1, 200)
    assert total(best) <= total(shares).min() + 1e-9


@given(PHIS, PHIS, SHARES, SHARES, EPOCHS, EPOCHS)
def test_rescoring_grows_with_outdated_losses_and_round_length_and_falls_with_its_cost(
    cost: float, other_cost: float, outdated: float, other: float, trained: float, longer: float
) -> None:
    def share(*, cost: float, outdated: float, trained: float) -> float:
        return phi(cost).best_share(outdated=outdated, trained=trained)

    here = {"cost": cost, "outdated": outdated, "trained": trained}
    for key, value, sign in (
        ("outdated", other, 1),
        ("trained", longer, 1),
        ("cost", other_cost, -1),
    ):
        change = share(**{**here, key: value}) - share(**here)
        assert change * sign * (value - here[key]) >= 0


def test_a_round_costs_its_epochs_and_its_share_of_scoring() -> None:
    assert phi(0.25).round_cost(trained=2 * 0.5, share=0.1) == pytest.approx(1.025)


def test_losses_without_drift_are_rescored_at_the_minimum_share() -> None:
    assert phi(0.1).best_share(outdated=0.0, trained=5.0) == MIN_SHARE


@given(SHARES, SHARES, st.floats(-1, 1), SHARES)
def test_the_outdated_share_grows_with_drift_and_falls_with_observed_losses(
    drift: float, more: float, agreement: float, covered: float
) -> None:
    share = outdated_share(drift, agreement=agreement, covered=covered)
    assert 0 <= share <= drift
    assert outdated_share(max(drift, more), agreement=agreement, covered=covered) >= share
    assert outdated_share(drift, agreement=max(agreement, more), covered=covered) <= share
    assert outdated_share(drift, agreement=agreement, covered=max(covered, more)) <= outdated_share(
        drift, agreement=agreement, covered=min(covered, more)
    )


def test_the_scoring_cost_is_the_prior_until_a_round_measured_it() -> None:
    assert ScoringCost.of([], adapters=False) == ScoringCost(1 / 3, "prior")
    assert ScoringCost.of([], adapters=True) == ScoringCost(1 / 2, "prior")
    warm_up = RoundSeconds(scored=0, score_seconds=0, trained=1000, train_seconds=10)
    assert ScoringCost.of([warm_up], adapters=False).source == "prior"
    # The first scoring includes the start of the workers; the median ignores it.
    slow = RoundSeconds(scored=1000, score_seconds=30, trained=500, train_seconds=5)
    usual = RoundSeconds(scored=100, score_seconds=0.2, trained=500, train_seconds=5)
    measured = ScoringCost.of([warm_up, slow, usual, usual], adapters=True)
    assert measured == ScoringCost(pytest.approx(0.2), "measured")
