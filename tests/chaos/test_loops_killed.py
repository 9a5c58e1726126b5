"""The loops of examples/, killed: the next batches and the bits at the end are the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from example_loops import LOOPS, Loop, assert_a_killed_rank_resumes, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("loops"))


@pytest.mark.parametrize("name", LOOPS[1:])  # the first one: test_loops.py
def test_when_one_rank_of_two_is_killed_both_go_on_with_the_exact_next_batch(
    name: str, folder: Path
) -> None:
    loop = Loop(name, folder, num_ranks=2, micro_batch_size=2)
    assert loop.launch() == 0
    assert_a_killed_rank_resumes(loop)


@pytest.mark.parametrize("name", LOOPS[:2])  # of the Trainer: test_fit_killed.py
def test_killed_between_checkpoints_it_ends_with_the_same_bits_in_spite_of_dropout(
    name: str, folder: Path
) -> None:
    whole = Loop(name, folder, micro_batch_size=2, dropout=0.1)
    killed = replace(whole, suffix="killed")
    assert whole.launch() == 0
    assert killed.launch(kill="0,8") == -9
    assert killed.launch() == 0
    found = killed.weights()
    for name, tensor in whole.weights().items():
        assert torch.equal(found[name], tensor), name
