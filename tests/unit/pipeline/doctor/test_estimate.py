"""What an estimate advises."""

import pytest

from pipeline.doctor.estimate import Estimate
from pipeline.doctor.run_costs import RunCost


@pytest.mark.parametrize(("round_seconds", "is_advised"), [(600.0, True), (2.0, False)])
def test_longer_spans_are_advised_where_a_round_takes_long(
    round_seconds: float, *, is_advised: bool
) -> None:
    estimate = Estimate(
        num_samples=10_000,
        num_bytes=10**6,
        approximate=False,
        places=2,
        score_samples_per_second=100.0,
        train_samples_per_second=10.0,
        num_scored_rounds=1,
        score_seconds_per_round=round_seconds,
        score_seconds=round_seconds,
        train_seconds=100.0,
        evaluated_samples=500,
        evaluate_seconds=20.0,
        read_bytes=10**6,
        num_spans=50,
        span_seconds=1.0,
        budget_unit="samples",
        rounds=(),
        pool_mix=None,
        run_cost=RunCost(10, 20, 30, 200, 700, 10**5, 0.5),
        is_local=True,
        layout="",
    )
    (line,) = (line for line in estimate.lines() if line.startswith("a span takes"))
    assert ("set scoring.span_samples to about 3,000" in line) is is_advised
    lines = list(estimate.lines())
    assert "evaluation: about 500 samples after every round, 20.0 s in all rounds" in lines
    total = "12 min" if is_advised else "2 min"
    assert f"in all: {total}, with 0.4 s a round around the model, and about 9 s to start" in lines
