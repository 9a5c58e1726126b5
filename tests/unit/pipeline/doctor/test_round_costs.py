"""What the rounds of a run draw, score, train on and read."""

import numpy as np
import pytest

from attent_select.schedule.candidate_walk import CandidateWalk, Place
from pipeline.doctor.round_costs import read_shares

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
