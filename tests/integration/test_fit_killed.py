"""A killed round resumes in a new process and ends with the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fit_process import FitRequest, launch
from killed_fits import KILLED, assert_the_same_bits, requests_in

from trainers import checkpoint


@pytest.fixture(scope="module")
def request_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FitRequest]:
    return requests_in(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def undisturbed(request_at: Callable[[str], FitRequest]) -> FitRequest:
    request = request_at("undisturbed")
    assert launch(request) == 0
    return request


def test_a_checkpoint_without_its_marker_does_not_count(
    request_at: Callable[[str], FitRequest], undisturbed: FitRequest
) -> None:
    request = request_at("unmarked")
    assert launch(replace(request, kill_after_step=6)) == KILLED
    step = Path(request.out) / "step-4"
    (step / checkpoint.MARKER).unlink()
    # What a kill in the middle of an upload leaves behind: a piece of a file.
    weights = step / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert launch(request) == 0
    assert_the_same_bits(request.out, undisturbed.out)


def test_a_finished_round_leaves_only_its_checkpoint(
    undisturbed: FitRequest,
) -> None:
    names = {path.name for path in Path(undisturbed.out).rglob("*")}
    assert names == {
        "checkpoint.json", "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt",
        "trainer_state.json",
    }  # fmt: skip
    found = checkpoint.open(undisturbed.out)
    assert found is not None
    assert found.step == 18
    assert found.files.keys() == names - {checkpoint.MARKER}
