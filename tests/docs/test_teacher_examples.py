"""The loops of examples/ with a teacher run as their first lines say, and learn."""

import os
import re
from pathlib import Path

import launched
import pytest

ROOT = Path(__file__).parents[2]
# The first of 20 epochs sees 1,500 samples, every other one half of them.
HALF = 1500 + 19 * 750


def run(name: str, *, folder: Path, num_ranks: int = 1) -> tuple[int, float]:
    """Samples seen and accuracy of an example."""
    program, output = ROOT / f"examples/teacher_{name}.py", folder / f"output-{num_ranks}"
    environment = os.environ | {"ACCELERATE_USE_CPU": "1"}
    code = launched.launch(program, output=output, num_ranks=num_ranks, environment=environment)
    assert code == 0
    outputs = [Path(f"{output}-{rank}").read_text() for rank in range(num_ranks)]
    (found,) = re.findall(r"(\d+) samples seen, accuracy ([0-9.]+)", "".join(outputs))
    return int(found[0]), float(found[1])


@pytest.mark.parametrize("name", ["lightning", "hf_trainer"])
def test_a_trainer_sees_half_of_the_samples_and_learns(name: str, tmp_path: Path) -> None:
    num_seen, accuracy = run(name, folder=tmp_path)
    assert num_seen == HALF
    assert accuracy > 0.85


@pytest.mark.parametrize("name", ["torch", "accelerate"])
def test_two_ranks_train_on_the_samples_of_one(name: str, tmp_path: Path) -> None:
    one, two = run(name, folder=tmp_path), run(name, folder=tmp_path, num_ranks=2)
    if name == "torch":
        assert one[0] == two[0] == HALF
    else:  # which repeats samples for ranks whose last batch is not full
        assert HALF < one[0] <= two[0] <= 1.02 * one[0] < 20 * 1500
    assert two[1] == pytest.approx(one[1], abs=0.02)
    assert one[1] > 0.85
