"""Plans of a pilot: sizes within the budget, paired seeds, candidates, and the recommendation."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from pipeline.pilot.plan import (
    SIZES,
    Budget,
    equivalents,
    recommendation,
    samples_of,
    trials_of,
)
from pipeline.pilot.policies import Policy

NGRAM = Policy(
    "near", "n-grams", {"strategy": "key", "key": "near"}, 0.1, annotations={"near": {"a": 1}}
)
HARD = Policy("hard", "hard", {"strategy": "hard"}, 0.5, scores=True)
VALUES: dict[str, Any] = {
    "run": "runs/x",
    "seed": 7,
    "corpus": {"shards": ["x"]},
    "annotations": {"mine": {"kind": "length"}},
    "model": {"config": {"model_type": "vit"}},
    "training": {"batch_size": 64, "warmup_steps": 500, "learning_rate": 0.02},
    "schedule": {"epochs": 3},
    "selection": {"strategy": "soft"},
    "scoring": {"max_failed_share": 0.1, "dtype": "bfloat16"},
}
BUDGET = Budget(
    run_samples=1_000_000,
    corpus_samples=10_000_000,
    share=0.05,
    relative_cost=0.1,
    num_seeds=3,
)


def test_scoring_is_part_of_the_cost() -> None:
    assert equivalents([NGRAM], num_seeds=2) == pytest.approx(2 * (3.5 + 1))
    assert equivalents([NGRAM, HARD], num_seeds=2) == pytest.approx(2 * (3.5 + 2 + 2 / 3))


@given(st.integers(10**5, 10**9), st.floats(0.01, 0.1), st.floats(0.001, 1.0), st.integers(2, 9))
def test_the_runs_fit_into_the_budget_and_the_corpus(
    run_samples: int, share: float, relative_cost: float, num_seeds: int
) -> None:
    budget = Budget(run_samples, 20_000, share, relative_cost, num_seeds)
    samples = samples_of(budget, [NGRAM, HARD])
    spent = samples * relative_cost * equivalents([NGRAM, HARD], num_seeds=num_seeds)
    assert spent <= share * run_samples
    assert samples / NGRAM.keep <= 20_000 / 2
    assert samples * SIZES[-1] <= 20_000


def test_a_share_that_is_too_small_is_refused_with_one_that_is_enough() -> None:
    small = replace(BUDGET, run_samples=5_000, relative_cost=1.0)
    with pytest.raises(InputError, match=r"raise --share to (0\.\d+) or more") as caught:
        samples_of(small, [HARD])
    enough = float(str(caught.value).partition("--share to ")[2].partition(" ")[0])
    assert samples_of(replace(small, share=enough * 1.01), [HARD]) >= 32


def test_no_share_is_named_where_the_corpus_is_too_small() -> None:
    small = replace(BUDGET, corpus_samples=320)
    with pytest.raises(
        InputError, match=r"keep 0\.1 of 320 samples.* on 16 samples a run"
    ) as caught:
        samples_of(small, [NGRAM, HARD])
    assert "--share" not in str(caught.value)
    assert samples_of(small, [HARD]) == 80


def test_all_runs_of_a_seed_share_everything_but_their_selection() -> None:
    trials = list(
        trials_of(VALUES, [NGRAM, HARD], samples=1000, num_seeds=2, model={"path": "m"}, corpus="c")
    )
    assert [trial.seed for trial in trials] == [7] * 5 + [8] * 5
    assert len({(trial.name, trial.seed) for trial in trials}) == 10
    own = ("selection", "schedule", "annotations", "seed")
    shared = [{k: v for k, v in trial.values.items() if k not in own} for trial in trials]
    assert all(each == shared[0] for each in shared)
    assert shared[0]["corpus"] == {"path": "c"}
    assert shared[0]["scoring"] == {"max_failed_share": 0.5, "dtype": "bfloat16"}
    rate = pytest.approx(0.02 * math.sqrt(31 / 64))
    assert shared[0]["training"] == {"batch_size": 31, "warmup_steps": 1, "learning_rate": rate}
    sizes = [trial.values["schedule"]["budget"]["samples"] for trial in trials[:5]]
    assert sizes == [500, 1000, 2000, 1000, 1000]
    assert [trial.values["annotations"] for trial in trials[:5]] == [
        {},
        {},
        {},
        {"near": {"a": 1}},
        {},
    ]
    assert trials[3].values["schedule"]["pool"]["multiple"] == 10
    assert "warmup" in trials[4].values["schedule"]


def test_the_recommendation_trains_on_as_many_samples() -> None:
    values = recommendation(VALUES, NGRAM, budget=BUDGET)
    assert values["annotations"] == {"mine": {"kind": "length"}, "near": {"a": 1}}
    assert values["selection"] == {"strategy": "key", "key": "near"}
    amount = {"budget": {"samples": 1_000_000}}
    for policy, corpus_samples, schedule in (
        (NGRAM, 20_000_000, amount | {"pool": {"multiple": 10.0}}),
        (NGRAM, 10_000_000, amount),
        (NGRAM, 1_000_000, {"epochs": 10, "ratio": {"start": 0.1}}),
        (HARD, 20_000_000, amount | {"pool": {"multiple": 2.0}}),
        (HARD, 3_000_000, amount | {"pool": {"multiple": 1.5}}),
        (HARD, 1_000_000, {"epochs": 2, "ratio": {"start": 0.5}}),
    ):
        budget = replace(BUDGET, corpus_samples=corpus_samples)
        assert recommendation(VALUES, policy, budget=budget)["schedule"] == schedule
    uniform = recommendation(VALUES, None, budget=BUDGET)
    assert uniform["selection"] == {"strategy": "uniform"}
    assert uniform["schedule"] == {"budget": {"samples": 1_000_000}}
