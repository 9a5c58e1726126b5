"""A small round of training for tests that kill it, and comparisons of its results bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from digits import VIT, samples, write_corpus, write_index
from fit_process import FitRequest
from safetensors.torch import load_file

KILLED = -9


def requests_in(folder: Path) -> Callable[[str], FitRequest]:
    """Write the corpus and the index of a round; return the request to train it, by name."""
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


def assert_the_same_bits(one: str, other: str) -> None:
    first, second = load_file(f"{one}/model.safetensors"), load_file(f"{other}/model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    states = [torch.load(f"{url}/optimizer.pt", weights_only=True)["state"] for url in (one, other)]
    for number, state in states[0].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, states[1][number][name]), (number, name)


def without_place(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in ("checkpoint", "seconds")}
