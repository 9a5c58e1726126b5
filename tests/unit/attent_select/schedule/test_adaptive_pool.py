"""Rules of adaptive pools: bounded, monotone, with a reason, and within the budget."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import Ratio, Round, Schedule
from attent_select.schedule.adaptive import Decision, Signals
from attent_select.schedule.adaptive_pool import decide_pool
from attent_select.schedule.budget import Amount, Pool
from attent_select.schedule.cost import MULTIPLES, ScoringCost

ADAPTIVE = Schedule(budget=Amount(samples=100), pool=Pool(multiple=3), ratio=Ratio("adaptive"))
AUTO = Schedule(budget=Amount(samples=100), pool=Pool(multiple="auto"))
ROUND = Round(2, "teach", 0.01, 100, 1, 40, 10)
NONE = np.zeros(0)
GAINS = st.one_of(st.none(), st.floats(-1, 1))


def decide(schedule: Schedule, **replaced: Any) -> Decision:
    arguments: dict[str, Any] = {
        "before": None,
        "num_samples": 10_000,
        "explore": 0.1,
        "signals": Signals(is_scored=True),
        "cost": ScoringCost(1 / 3, "prior"),
        "losses": NONE,
    }
    return decide_pool(ROUND, schedule=schedule, **(arguments | replaced))


@given(st.floats(1, 20), st.lists(st.tuples(GAINS, GAINS, GAINS), max_size=8))
def test_a_moving_multiple_stays_between_half_and_twice_its_start_and_keeps_the_round(
    first: float, signals: list[tuple[float | None, float | None, float | None]]
) -> None:
    pool, before = Pool(multiple=first), None
    schedule = Schedule(budget=Amount(samples=100), pool=pool, ratio=Ratio("adaptive"))
    for gain, gain_before, agreement in signals:
        known = Signals(gain=gain, gain_before=gain_before, agreement=agreement)
        decision = decide(schedule, before=before, signals=known)
        before = decision.multiple
        assert before is not None
        assert max(1, first / 2 - 0.01) <= before <= 2 * first + 0.01
        assert decision.round == ROUND
        assert 0.1 <= decision.explore <= 0.25
        assert set(decision.reasons) == {"multiple", "ratio", "explore", "rescore"}


def test_a_round_that_taught_more_is_followed_by_more_candidates() -> None:
    more, less, unknown = (
        decide(ADAPTIVE, before=3.0, signals=Signals(gain=gain, gain_before=0.2))
        for gain in (0.3, 0.1, None)
    )
    assert more.multiple is not None
    assert less.multiple is not None
    assert less.multiple < 3 < more.multiple
    assert unknown.multiple == pytest.approx(3)
    assert more.reasons["multiple"] == (
        "the share of the candidates that is taken is smaller: the last round lowered the loss by"
        " 0.3 nats per sample trained, the round before by 0.2"
    )
    assert more.rescore == pytest.approx(more.multiple * 100 / 10_000, abs=1e-4)


def test_three_candidates_a_sample_are_the_best_for_exponential_losses() -> None:
    quantiles = -np.log((np.arange(100_000) + 0.5) / 100_000)
    decision = decide(AUTO, losses=quantiles)
    assert decision.multiple == pytest.approx(2.9)
    assert "are 2.06 times their mean, for 1.97 times the cost" in decision.reasons["multiple"]
    assert decide(AUTO).multiple == 3
    assert decide(AUTO).reasons["multiple"] == "the default: there are no losses of candidates yet"
    assert decide(AUTO, losses=-quantiles).multiple == 3


@given(
    st.lists(st.floats(0, 100, width=32), min_size=32, max_size=200).filter(any),
    st.floats(0.01, 2),
    st.floats(0.01, 2),
)
def test_cheaper_scoring_never_leads_to_fewer_candidates(
    losses: list[float], one: float, other: float
) -> None:
    values = np.array(losses, np.float64)
    cheap, dear = (
        ScoringCost(phi, "measured").best_multiple(values) for phi in sorted((one, other))
    )
    assert MULTIPLES[0] <= dear[0] <= cheap[0] <= MULTIPLES[1]
    # The value is that of the definition.
    taken = np.sort(values)[::-1][: int(np.ceil(len(values) / cheap[0]))]
    assert cheap[1] == pytest.approx(taken.mean() / values.mean())


def test_alike_losses_do_not_pay_for_scoring() -> None:
    assert decide(AUTO, losses=np.full(100, 2.0)).multiple == MULTIPLES[0]
    # A few losses hold everything.
    rare = np.where(np.arange(1000) < 100, 1.0, 0.0)
    assert decide(AUTO, losses=rare).multiple == MULTIPLES[1]
