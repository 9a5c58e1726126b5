"""Round schedules: from settings to the list of rounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import Ratio, Schedule, SelectionInterval, plan_rounds
from attent_select.errors import InputError
from attent_select.schedule.rescoring import Rescore

SHARES = st.floats(0.01, 1)
RATIOS = st.one_of(
    st.builds(Ratio, kind=st.just("fixed"), start=SHARES),
    st.builds(Ratio, kind=st.sampled_from(["cosine", "incremental"]), start=SHARES, end=SHARES),
)
INTERVALS = st.one_of(
    st.builds(SelectionInterval, kind=st.just("fixed"), epochs=st.integers(1, 4)),
    st.builds(
        SelectionInterval,
        kind=st.just("incremental"),
        epochs=st.integers(1, 4),
        end=st.integers(4, 9),
    ),
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    warmup, teach, anneal = (draw(st.integers(0, 12)) for _ in range(3))
    return Schedule(
        epochs=max(1, warmup + teach + anneal),
        warmup_epochs=warmup,
        anneal_epochs=anneal,
        ratio=draw(RATIOS),
        interval=draw(INTERVALS),
    )


@given(schedules(), st.integers(1, 10_000), st.integers(1, 300))
def test_the_rounds_cover_all_epochs_and_steps_without_a_gap(
    schedule: Schedule, num_samples: int, batch_size: int
) -> None:
    rounds = plan_rounds(schedule, num_samples=num_samples, batch_size=batch_size)
    assert [r.number for r in rounds] == list(range(len(rounds)))
    assert sum(r.epochs for r in rounds) == schedule.epochs
    step = 0
    for r in rounds:
        assert r.first_step == step
        assert r.num_steps == r.epochs * math.ceil(r.num_samples / batch_size) > 0
        assert 1 <= r.num_samples <= num_samples
        step += r.num_steps


@given(schedules())
def test_warmup_and_annealing_train_on_all_data(schedule: Schedule) -> None:
    rounds = plan_rounds(schedule, num_samples=1000, batch_size=10)
    epochs = {phase: sum(r.epochs for r in rounds if r.phase == phase) for phase in PHASES}
    assert (epochs["warmup"], epochs["anneal"]) == (schedule.warmup_epochs, schedule.anneal_epochs)
    assert all(r.num_samples == 1000 for r in rounds if r.phase != "teach")


PHASES = ("warmup", "teach", "anneal")


def ratios(ratio: Ratio) -> list[float]:
    rounds = plan_rounds(Schedule(epochs=5, ratio=ratio), num_samples=10_000, batch_size=1)
    return [round(r.ratio, 4) for r in rounds]


def test_the_ratio_follows_its_curve_from_start_to_end() -> None:
    assert ratios(Ratio("fixed", 0.25)) == [0.25] * 5
    assert ratios(Ratio("incremental", 0.2, 0.6)) == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert ratios(Ratio("cosine", 0.2, 0.6)) == [0.2, 0.2586, 0.4, 0.5414, 0.6]


def test_intervals_grow_and_the_last_round_is_shortened_to_fit_the_epochs() -> None:
    schedule = Schedule(
        epochs=12, warmup_epochs=1, anneal_epochs=1, interval=SelectionInterval("incremental", 1, 5)
    )
    rounds = plan_rounds(schedule, num_samples=100, batch_size=10)
    assert [r.epochs for r in rounds] == [1, 1, 2, 3, 4, 1]


def test_the_schedule_of_the_paper_can_be_expressed() -> None:
    # Ten cycles of 5 to 10 epochs, ratios from 0.2 to 0.8 along a cosine.
    schedule = Schedule(
        epochs=71, ratio=Ratio("cosine", 0.2, 0.8), interval=SelectionInterval("incremental", 5, 10)
    )
    rounds = plan_rounds(schedule, num_samples=10_000, batch_size=1)
    cycles = range(10)
    assert [r.epochs for r in rounds] == [5 + int(5 * c / 9) for c in cycles]
    expected = [0.2 + 0.6 * (1 - math.cos(c / 9 * math.pi)) / 2 for c in cycles]
    assert [r.ratio for r in rounds] == pytest.approx(expected)


def test_the_language_model_schedule_of_the_paper_can_be_expressed() -> None:
    # One epoch on all data, then the hardest 70 % for the other epochs.
    schedule = Schedule(
        epochs=3, warmup_epochs=1, ratio=Ratio("fixed", 0.7), interval=SelectionInterval("fixed", 2)
    )
    rounds = plan_rounds(schedule, num_samples=100, batch_size=10)
    assert [(r.phase, r.num_samples, r.epochs) for r in rounds] == [
        ("warmup", 100, 1),
        ("teach", 70, 2),
    ]


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: Ratio("fixed", 0.0), "start"),
        (lambda: Ratio("fixed", 1.5), "start"),
        (lambda: Ratio("cosine", 0.5, 2), "end"),
        (lambda: Ratio("cosine", 0.5), "end"),
        (lambda: Ratio("fixed", 0.5, 0.6), "end"),
        (lambda: SelectionInterval("fixed", 0), "epochs"),
        (lambda: SelectionInterval("incremental", 3, 2), "end"),
        (lambda: SelectionInterval("incremental", 1), "end"),
        (lambda: SelectionInterval("fixed", 1, 2), "end"),
        (lambda: Schedule(epochs=0), "epochs"),
        (lambda: Schedule(epochs=3, warmup_epochs=2, anneal_epochs=2), "epochs"),
        (lambda: Schedule(warmup_epochs=-1), "warmup_epochs"),
        (lambda: Schedule(rescore=Rescore("observed")), "rescore"),
        (lambda: plan_rounds(Schedule(), num_samples=0, batch_size=1), "no samples"),
        (lambda: plan_rounds(Schedule(), num_samples=1, batch_size=0), "batch_size"),
    ],
)
def test_an_invalid_schedule_is_an_input_error_that_names_the_key(build, key: str) -> None:
    with pytest.raises(InputError, match=key):
        build()
