"""Rules of an adaptive run: bounded, monotone, with a reason, and within the step budget."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import Ratio, Round, Schedule, SelectionInterval, plan_rounds
from attent_select.errors import InputError
from attent_select.schedule.adaptive import (
    MAX_EXPLORE,
    Signals,
    decide_round,
    explore_share,
    next_ratio,
    plan_adaptive_rounds,
    rescore_share,
)
from attent_select.schedule.cost import MIN_SHARE, ScoringCost
from attent_select.schedule.rescoring import Rescore

COST = ScoringCost(1 / 3, "prior")
INTERVALS = st.one_of(
    st.builds(SelectionInterval, kind=st.just("fixed"), epochs=st.integers(1, 4)),
    st.builds(
        SelectionInterval,
        kind=st.just("incremental"),
        epochs=st.integers(1, 4),
        end=st.integers(4, 9),
    ),
)
SHARES = st.floats(0, 1)
GAINS = st.one_of(st.none(), st.floats(-1, 1))
SIGNALS = st.builds(
    Signals,
    is_scored=st.booleans(),
    drift=st.one_of(st.none(), SHARES),
    agreement=st.one_of(st.none(), st.floats(-1, 1)),
    covered=SHARES,
    gain=GAINS,
    gain_before=GAINS,
)


@st.composite
def adaptive(draw: st.DrawFn) -> Schedule:
    low, start, high = sorted(draw(st.lists(st.floats(0.02, 1), min_size=3, max_size=3)))
    warmup, teach, anneal = (
        draw(st.integers(0, 3)),
        draw(st.integers(1, 12)),
        draw(st.integers(0, 3)),
    )
    return Schedule(
        epochs=warmup + teach + anneal,
        warmup_epochs=warmup,
        anneal_epochs=anneal,
        ratio=Ratio("adaptive", start, low=low, high=high),
        interval=draw(INTERVALS),
        rescore=draw(st.builds(Rescore, kind=st.sampled_from(["full", "none", "auto"]))),
    )


SIZES = {"num_samples": st.integers(1, 5000), "batch_size": st.integers(1, 200)}


@given(schedule=adaptive(), data=st.data(), **SIZES)
def test_an_adaptive_run_spends_exactly_its_steps_for_all_decisions(
    schedule: Schedule, data: st.DataObject, num_samples: int, batch_size: int
) -> None:
    sizes: Any = {"num_samples": num_samples, "batch_size": batch_size}
    planned = plan_rounds(schedule, **sizes)
    budget = sum(each.num_steps for each in planned)
    rounds = plan_adaptive_rounds(schedule, (), **sizes)
    number = 0
    while number < len(rounds):
        assert sum(each.num_steps for each in rounds) == budget, "after every decision"
        round_ = rounds[number]
        if round_.phase == "teach":
            decision = decide_round(
                round_,
                before=rounds[:number],
                schedule=schedule,
                explore=0.1,
                signals=data.draw(SIGNALS),
                cost=COST,
                **sizes,
            )
            round_ = decision.round
            if data.draw(st.booleans()):  # fewer rows are eligible than planned
                m = data.draw(st.integers(1, round_.num_samples))
                steps = round_.epochs * math.ceil(m / batch_size)
                round_ = replace(round_, num_samples=m, num_steps=steps)
            assert set(decision.reasons) == {"ratio", "explore", "rescore"}
            assert all(decision.reasons.values())
            rounds = plan_adaptive_rounds(schedule, (*rounds[:number], round_), **sizes)
        number += 1
    assert sum(each.num_steps for each in rounds) == budget
    assert [each.number for each in rounds] == list(range(len(rounds)))
    assert [e.phase for e in rounds if e.phase != "teach"] == [
        e.phase for e in planned if e.phase != "teach"
    ]
    steps = 0
    for each in rounds:
        assert each.first_step == steps
        assert each.num_steps == each.epochs * math.ceil(each.num_samples / batch_size) > 0
        assert each.num_samples <= num_samples
        steps += each.num_steps


@given(schedule=adaptive(), signals=SIGNALS, **SIZES)
def test_every_round_except_the_last_stays_within_the_bounds(
    schedule: Schedule, signals: Signals, num_samples: int, batch_size: int
) -> None:
    sizes: Any = {"num_samples": num_samples, "batch_size": batch_size}
    low, high = schedule.ratio.bounds
    rounds = plan_adaptive_rounds(schedule, (), **sizes)
    number = schedule.warmup_epochs and 1
    while rounds[number : number + 1] and rounds[number].phase == "teach":
        decision = decide_round(
            rounds[number],
            before=rounds[:number],
            schedule=schedule,
            explore=0.0,
            signals=signals,
            cost=COST,
            **sizes,
        )
        rounds = plan_adaptive_rounds(schedule, (*rounds[:number], decision.round), **sizes)
        per_epoch = math.ceil(decision.round.num_samples / batch_size)
        assert per_epoch <= math.ceil(max(1, high * num_samples + 0.5) / batch_size)
        is_last = [each.phase for each in rounds[number + 1 :] if each.phase == "teach"] == []
        if not is_last:
            assert per_epoch >= math.ceil(max(1, math.floor(low * num_samples + 0.5)) / batch_size)
        number += 1


@given(schedule=adaptive(), **SIZES)
def test_an_unchanged_ratio_gives_the_rounds_of_the_fixed_schedule(
    schedule: Schedule, num_samples: int, batch_size: int
) -> None:
    fixed = replace(schedule, ratio=Ratio("fixed", schedule.ratio.start))
    sizes: Any = {"num_samples": num_samples, "batch_size": batch_size}
    assert (
        plan_adaptive_rounds(schedule, (), **sizes)
        == plan_rounds(fixed, **sizes)
        == plan_rounds(schedule, **sizes)
    )


@given(st.floats(0.1, 1), GAINS, GAINS, GAINS)
def test_a_larger_gain_never_makes_the_next_subset_larger(
    before: float, gain: float | None, larger: float | None, last: float | None
) -> None:
    ratio = Ratio("adaptive", 0.3, low=0.1, high=0.9)

    def ratio_after(gain: float | None) -> float:
        value, reason = next_ratio(
            before, ratio=ratio, signals=Signals(gain=gain, gain_before=last)
        )
        assert 0.1 <= value <= 0.9
        assert reason
        if 0.1 <= before <= 0.9:
            assert before / math.sqrt(2) - 1e-9 <= value or value == 0.1
            assert value <= before * math.sqrt(2) + 1e-9
        return value

    if gain is not None and larger is not None:
        assert ratio_after(max(gain, larger)) <= ratio_after(min(gain, larger))
    if last is None:
        assert ratio_after(gain) == min(0.9, max(0.1, before)), "unchanged without a signal"


def test_a_smaller_gain_leads_to_a_larger_subset_with_a_reason() -> None:
    ratio = Ratio("adaptive", 0.4)
    larger = next_ratio(0.4, ratio=ratio, signals=Signals(gain=1e-5, gain_before=2e-5))
    assert larger[0] == pytest.approx(0.4 * 2**0.25)
    assert larger[1].startswith("larger: the last round lowered the loss by 1e-05 nats")
    smaller = next_ratio(0.4, ratio=ratio, signals=Signals(gain=3e-5, gain_before=2e-5))
    assert smaller[0] < 0.4
    worse = next_ratio(0.4, ratio=ratio, signals=Signals(gain=-1e-5, gain_before=2e-5))
    assert worse[0] == pytest.approx(0.4 * 2**0.5)


@given(SHARES, st.floats(-1, 1), st.floats(-1, 1))
def test_more_agreement_never_increases_exploration(base: float, one: float, other: float) -> None:
    shares = [
        explore_share(base, signals=Signals(agreement=agreement))[0]
        for agreement in sorted([one, other])
    ]
    assert base <= shares[1] <= shares[0] <= max(base, MAX_EXPLORE)
    assert explore_share(base, signals=Signals())[0] == base


@given(SIGNALS, SHARES, st.floats(0.01, 9))
def test_more_drift_never_reduces_rescoring(signals: Signals, drift: float, trained: float) -> None:
    auto = Rescore("auto", share=0.3)

    def share(signals: Signals) -> float:
        value, reason = rescore_share(auto, signals=signals, trained=trained, cost=COST)
        assert reason
        return value

    if not signals.is_scored:
        assert share(signals) == 1, "without scored losses there is nothing to keep"
    elif signals.drift is None:
        assert share(signals) == 0.3
    else:
        assert MIN_SHARE <= share(signals) <= 1
        assert share(replace(signals, drift=max(drift, signals.drift))) >= share(signals)


@pytest.mark.parametrize(
    ("rescore", "expected"),
    [(Rescore(), 1.0), (Rescore("none"), 0.0), (Rescore("partial", share=0.1), 0.1)],
)
def test_a_configured_share_is_used(rescore: Rescore, expected: float) -> None:
    known = Signals(is_scored=True, drift=0.9, agreement=0.1)
    share, reason = rescore_share(rescore, signals=known, trained=1.0, cost=COST)
    assert (share, reason) == (expected, f"from the configuration: {rescore.kind}")


def test_without_an_adaptive_ratio_the_ratio_and_exploration_stay_as_configured() -> None:
    schedule = Schedule(epochs=4, ratio=Ratio("cosine", 0.2, 0.6), rescore=Rescore("auto"))
    rounds = plan_rounds(schedule, num_samples=100, batch_size=10)
    signals = Signals(is_scored=True, drift=0.5, agreement=0.2, gain=1.0, gain_before=2.0)
    decision = decide_round(
        rounds[2],
        before=rounds[:2],
        schedule=schedule,
        num_samples=100,
        batch_size=10,
        explore=0.07,
        signals=signals,
        cost=COST,
    )
    assert decision.round == rounds[2]
    assert decision.explore == 0.07
    assert 0 < decision.rescore < 1
    assert "KS distance" in decision.reasons["rescore"]


@pytest.mark.parametrize(
    ("first", "steps"), [(50, [5, 7]), (70, [7, 5]), (80, [8, 4]), (40, [4, 4, 4])]
)
def test_steps_that_are_too_few_for_a_round_go_to_the_last_round(
    first: int, steps: list[int]
) -> None:
    # 100 samples in batches of 10: 12 teaching steps, 4 to 8 per epoch.
    ratio = Ratio("adaptive", 0.4, low=0.4, high=0.8)
    schedule = Schedule(epochs=3, ratio=ratio, interval=SelectionInterval("fixed", 1))
    decided = Round(0, "teach", first / 100, first, 1, 0, first // 10)
    rounds = plan_adaptive_rounds(schedule, (decided,), num_samples=100, batch_size=10)
    assert [each.num_steps for each in rounds] == steps
    assert [each.num_samples for each in rounds] == [10 * each for each in steps]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"end": 0.5}, "end: not used by kind adaptive"),
        ({"low": 0.0}, r"low: 0.0 is outside \(0, 1\]"),
        ({"high": 1.5}, r"high: 1.5 is outside \(0, 1\]"),
        ({"low": 0.6}, r"start: 0.5 is not between low \(0.6\) and high \(1.0\)"),
        ({"high": 0.4}, r"start: 0.5 is not between low \(0.25\) and high \(0.4\)"),
        ({"kind": "fixed", "low": 0.1}, "low: only used by kind adaptive"),
        ({"kind": "cosine", "end": 0.7, "high": 0.9}, "high: only used by kind adaptive"),
    ],
)
def test_an_invalid_adaptive_ratio_is_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ratio(**{"kind": "adaptive", "start": 0.5, **settings})
