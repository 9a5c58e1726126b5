"""What the rounds of a run draw, score, train on and read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digits import samples, write_corpus
from small_runs import small_run

from attent_select.schedule.candidate_walk import CandidateWalk, Place
from attent_select.schedule.rounds import plan_rounds
from pipeline.config import run_config
from pipeline.doctor.round_costs import (
    PoolMix,
    Rates,
    count_of,
    pool_mix,
    read_shares,
    round_costs,
    size_of,
)

SHARDS, SHARD_ROWS = 50, 10_000


@pytest.mark.parametrize("block_rows", [1, 100, 1000, 2000])
@pytest.mark.parametrize("group_rows", [1, 1000])
def test_the_bytes_read_are_those_of_the_row_groups_with_a_row(
    block_rows: int, group_rows: int
) -> None:
    """Compare with the row groups of a draw, and of random rows of it."""
    walk = CandidateWalk(np.full(SHARDS, SHARD_ROWS), block_rows, seed=1)
    drawn = walk.draw(30_000, start=Place())
    groups = (drawn.shards.astype(np.int64) * SHARD_ROWS + drawn.rows) // group_rows
    chosen = np.random.default_rng(0).choice(groups, 10_000, replace=False)
    num_groups = SHARDS * SHARD_ROWS / group_rows
    expected = read_shares(
        30_000 / (SHARDS * SHARD_ROWS),
        chosen=1 / 3,
        block_rows=block_rows,
        group_rows=group_rows,
    )
    counted = (len(np.unique(groups)) / num_groups, len(np.unique(chosen)) / num_groups)
    assert expected == pytest.approx(counted, rel=0.06)


def test_the_mix_of_a_pool_is_that_of_random_rows_for_single_rows_and_worse_for_blocks() -> None:
    rows = np.full(SHARDS, SHARD_ROWS)
    mixes = {
        block_rows: pool_mix(rows, num_candidates=30_000, block_rows=block_rows, seed=1)
        for block_rows in (1, 256, 10_000)
    }
    random = mixes[1].random
    assert random == pytest.approx(0.016, abs=0.004)
    assert mixes[1].distance == pytest.approx(random, abs=0.005)
    # Three of fifty shards are drawn, each as a whole.
    assert mixes[10_000] == PoolMix(pytest.approx(0.94), random)
    assert mixes[1].distance < mixes[256].distance < mixes[10_000].distance
    # All rows, and a pool that is larger than a million.
    everything = pool_mix(rows, num_candidates=10**7, block_rows=256, seed=1)
    assert everything.distance == pytest.approx(0)


@pytest.mark.parametrize(
    ("rescore", "scored"),
    [
        ({"kind": "full"}, [0, 1000, 1000]),
        ({"kind": "partial", "share": 0.1}, [0, 1000, 100]),
        ({"kind": "none"}, [0, 1000, 0]),
        ({"kind": "observed"}, [0, 0, 0]),
    ],
)
def test_a_round_scores_what_its_schedule_measures_again(
    tmp_path: Path, rescore: dict[str, Any], scored: list[int]
) -> None:
    write_corpus(tmp_path / "parquet", samples(4), num_shards=1)
    write_corpus(tmp_path / "held-out", samples(4), num_shards=1)
    values = small_run(tmp_path / "run", tmp_path)
    values["schedule"] |= {"rescore": rescore}
    config = run_config.parse(values)
    rounds = plan_rounds(config.schedule, num_samples=1000, batch_size=32)
    costs = round_costs(config, rounds, Rates(1000, 500.0, 100.0, 50.0))
    assert [cost.scored for cost in costs] == scored
    assert [cost.score_seconds for cost in costs] == [count / 100 for count in scored]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_234, "1.23 kB"),
        (837_526, "838 kB"),
        (999_900_000, "1,000 MB"),
        (12_340_000_000, "12.3 GB"),
        (4e15, "4,000,000 GB"),
    ],
)
def test_small_sizes_are_not_shown_as_zero(num_bytes: float, text: str) -> None:
    assert size_of(num_bytes) == text


def test_one_thing_is_not_plural() -> None:
    assert [count_of(number, "shard") for number in (1, 2_000)] == ["1 shard", "2,000 shards"]
