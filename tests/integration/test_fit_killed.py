"""A killed round resumes in a new process and ends with the same bits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import VIT, samples, write_corpus, write_index
from fit_process import FitRequest, launch, observed, result
from safetensors.torch import load_file

from trainers import checkpoint

KILLED = -9


@pytest.fixture(scope="module")
def request_at(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], FitRequest]:
    folder = tmp_path_factory.mktemp("killed")
    corpus = write_corpus(folder / "shards", samples(90))
    corpus.save(str(folder / "run"))
    index = write_index(folder / "index.parquet", corpus)

    def at(name: str) -> FitRequest:
        return FitRequest(
            run=str(folder / "run"),
            index=index.url,
            out=str(folder / name),
            model=VIT,
            training={
                "batch_size": 10,
                "micro_batch_size": 4,
                "save_steps": 4,
                "torch_threads": 1,
                "weight_decay": 0.01,
                "warmup_steps": 3,
            },
            stream={"seed": 5, "epochs": 2},
        )

    return at


@pytest.fixture(scope="module")
def undisturbed(request_at: Callable[[str], FitRequest]) -> FitRequest:
    request = request_at("undisturbed")
    assert launch(request) == 0
    return request


def assert_the_same_bits(one: str, other: str) -> None:
    first, second = load_file(f"{one}/model.safetensors"), load_file(f"{other}/model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    states = [torch.load(f"{url}/optimizer.pt", weights_only=True)["state"] for url in (one, other)]
    for number, state in states[0].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, states[1][number][name]), (number, name)


def test_a_round_killed_repeatedly_ends_with_the_same_weights(
    request_at: Callable[[str], FitRequest], undisturbed: FitRequest
) -> None:
    request = request_at("killed")
    for step in (1, 6, 17):  # before the first checkpoint, between two, and short of the end
        assert launch(replace(request, kill_after_step=step)) == KILLED
        assert not Path(f"{request.out}/{checkpoint.MARKER}").exists()
    assert launch(request) == 0
    assert_the_same_bits(request.out, undisturbed.out)
    assert observed(request).equals(observed(undisturbed))
    assert _without_place(result(request)) == _without_place(result(undisturbed))


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


def _without_place(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("checkpoint", "seconds")}
