"""The loops of examples/ with a teacher run as their first lines say, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# The first of 20 epochs sees 1,500 samples, every other one half of them.
HALF = 1500 + 19 * 750


def run(name: str, *launcher: str) -> tuple[int, float]:
    """Samples seen and accuracy of an example."""
    done = subprocess.run(
        [sys.executable, *launcher, str(ROOT / f"examples/teacher_{name}.py")],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = re.findall(r"(\d+) samples seen, accuracy ([0-9.]+)", done.stdout)
    return int(found[0]), float(found[1])


@pytest.mark.parametrize("name", ["lightning", "hf_trainer"])
def test_a_trainer_sees_half_of_the_samples_and_learns(name: str) -> None:
    num_seen, accuracy = run(name)
    assert num_seen == HALF
    assert accuracy > 0.85


@pytest.mark.parametrize("name", ["torch", "accelerate"])
def test_two_ranks_train_on_the_samples_of_one(name: str) -> None:
    one, two = run(name), run(name, *RANKS)
    if name == "torch":
        assert one[0] == two[0] == HALF
    else:  # which repeats samples for ranks whose last batch is not full
        assert HALF < one[0] <= two[0] <= 1.02 * one[0] < 20 * 1500
    assert two[1] == pytest.approx(one[1], abs=0.02)
    assert one[1] > 0.85
