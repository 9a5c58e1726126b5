"""Verdicts of a pilot: known multiples are found, intervals cover them, chance does not pay."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pilot.verdict import Outcome, PolicyVerdict, best_of, judge, learns

SIZES = (0.5, 1.0, 2.0)
SLOPE = 0.5  # nats per unit of ln size


def loss_at(size: float) -> float:
    return 4.0 - SLOPE * math.log(size)


def draw(multiple: float, *, noise: float, seed: int, num_seeds: int = 3) -> PolicyVerdict:
    """The verdict on a policy that equals uniform at `multiple`, with noise of each run."""
    generator = np.random.default_rng(seed)

    def outcome(cost: float, loss: float) -> Outcome:
        return Outcome(cost, loss + noise * float(generator.normal()))

    seeds = range(num_seeds)
    uniform = {n: [outcome(size, loss_at(size)) for size in SIZES] for n in seeds}
    runs = {n: outcome(1.0, loss_at(multiple)) for n in seeds}
    return judge("policy", runs, uniform, keep=0.5)


@given(st.floats(0.51, 1.99))
def test_a_known_multiple_is_found(multiple: float) -> None:
    found = draw(multiple, noise=0.0, seed=0).multiple
    assert found.mean == pytest.approx(multiple)
    assert not found.is_at_least
    assert not found.is_at_most


@given(st.floats(2.01, 100.0))
def test_beyond_the_largest_uniform_run_it_is_a_bound(multiple: float) -> None:
    verdict = draw(multiple, noise=0.0, seed=0)
    assert verdict.multiple.is_at_least
    assert verdict.multiple.mean == pytest.approx(2.0)
    assert verdict.answer == "it will pay"
    assert "2.0 × or more" in str(verdict)
    worse = draw(1 / multiple, noise=0.0, seed=0)
    assert worse.multiple.is_at_most
    assert worse.answer == "it will not pay"


@given(st.floats(3.0, 5.0), st.floats(3.0, 5.0))
def test_a_smaller_loss_never_gives_a_smaller_multiple(one: float, other: float) -> None:
    uniform = {n: [Outcome(size, loss_at(size)) for size in SIZES] for n in range(3)}
    means = [
        judge("", {n: Outcome(1.0, loss) for n in range(3)}, uniform, keep=0.5).multiple.mean
        for loss in sorted((one, other))
    ]
    assert means[0] >= means[1] - 1e-12


def test_what_a_policy_spends_on_scoring_counts() -> None:
    uniform = {n: [Outcome(size, loss_at(size)) for size in SIZES] for n in range(3)}
    runs = {n: Outcome(1.5, loss_at(1.5)) for n in range(3)}
    assert judge("", runs, uniform, keep=0.5).multiple.mean == pytest.approx(1.0)


def test_intervals_cover_the_multiple_in_nineteen_of_twenty_pilots() -> None:
    drawn = [draw(1.2, noise=0.02, seed=seed).multiple for seed in range(400)]
    covered = [each.low <= 1.2 <= each.high for each in drawn if each.low and each.high]
    assert len(covered) == 400
    assert sum(covered) / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5, 5.0])
def test_a_policy_that_equals_uniform_hardly_ever_pays(noise: float) -> None:
    answers = [draw(1.0, noise=noise, seed=seed).answer for seed in range(400)]
    assert answers.count("it will pay") / 400 <= 0.05


def test_nothing_is_certain_where_more_samples_do_not_help() -> None:
    flat = {n: [Outcome(size, 4.0 + 0.01 * n) for size in SIZES] for n in range(3)}
    runs = {n: Outcome(1.0, 3.0) for n in range(3)}
    assert not learns(flat)
    assert judge("", runs, flat, keep=0.5).answer == "uncertain"


def test_one_seed_is_not_enough() -> None:
    assert draw(3.0, noise=0.0, seed=0, num_seeds=1).answer == "uncertain"


def test_the_policy_with_the_largest_lower_bound_is_the_best() -> None:
    verdicts = [draw(multiple, noise=0.01, seed=3) for multiple in (0.8, 1.4, 1.8)]
    assert best_of(verdicts) is verdicts[2]
    assert best_of(verdicts[:1]) is None
