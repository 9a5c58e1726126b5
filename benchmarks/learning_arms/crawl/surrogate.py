"""A small model for the annotations that need one: its loss, and that after a target is learned."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.config import run_config
from pipeline.loop import select_and_train
from pipeline.runs.state import ensure_decision, prepare
from pipeline.selection.select_stage import select_stage
from trainers import checkpoint

# The learning rate that suits a model of a quarter of the width.
_LEARNING_RATE: Final = 8e-3


def train_small(
    sections: Mapping[str, Any], run: Path, *, samples: int, cluster: Callable[[], Any]
) -> str:
    """Train a language model of half the width and half the layers, as `train_surrogate` does."""
    config = dict(sections["model"]["config"])
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers"):
        config[name] //= 2
    training = {**sections["training"], "learning_rate": _LEARNING_RATE}
    smaller = {**sections, "model": {"config": config}, "training": training}
    return train_surrogate(smaller, run, samples=samples, cluster=cluster)


def train_surrogate(
    sections: Mapping[str, Any], run: Path, *, samples: int, cluster: Callable[[], Any]
) -> str:
    """Train a model on random samples and return its folder.

    Args:
        sections: `corpus`, `task`, `model` and `training` of the regime.
        run: folder of the run, which is resumed.
        samples: number of training samples.
        cluster: opens a cluster.
    """
    settings = {
        **sections,
        "run": str(run),
        "selection": {"strategy": "uniform"},
        "schedule": {"budget": {"samples": samples}, "rounds": 1},
    }
    state = prepare(run_config.parse(settings), cluster=cluster)
    state = ensure_decision(state, 0)
    select_stage(state, state.rounds[0])
    state, _ = select_and_train(state, 0)
    trained = checkpoint.open(state.layout.checkpoint(0))
    assert trained is not None
    return trained.url
