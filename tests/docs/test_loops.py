"""The loops of examples/, run as their first lines say: on one rank and two, whole and killed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from example_loops import LOOPS, Loop, assert_a_killed_rank_resumes, canonical, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("loops"))


@pytest.fixture(scope="module", params=LOOPS)
def two_ranks(request: pytest.FixtureRequest, folder: Path) -> Loop:
    """Two ranks that accumulate micro-batches of 1 and 2 samples, with weights of 0.5 and 1.5."""
    loop = Loop(request.param, folder, num_ranks=2, micro_batch_size=2)
    assert loop.launch() == 0
    return loop


def test_two_ranks_with_micro_batches_end_where_one_rank_with_whole_batches_ends(
    two_ranks: Loop, folder: Path
) -> None:
    assert two_ranks.trained_on() == canonical(folder)
    alone = replace(two_ranks, num_ranks=1, micro_batch_size=None)
    assert alone.launch() == 0
    assert alone.trained_on() == canonical(folder)
    found = two_ranks.weights()
    for name, tensor in alone.weights().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


# The others: tests/chaos/test_loops_killed.py.
@pytest.mark.parametrize("two_ranks", LOOPS[:1], indirect=True)
def test_when_one_rank_of_two_is_killed_both_go_on_with_the_exact_next_batch(
    two_ranks: Loop,
) -> None:
    assert_a_killed_rank_resumes(two_ranks)
