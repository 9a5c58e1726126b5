"""Completion of a published round: its evaluation, and removal of the checkpoints inside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from trainers import checkpoint as checkpoints
from trainers.checkpoint import Checkpoint
from trainers.fitting.result import is_evaluated, with_metrics
from trainers.scoring.scorer import best_device
from trainers.settings import TrainingSettings
from trainers.task import Batch, Models, Task


@dataclass(frozen=True)
class Completion:
    """Work that remains after a round was published; a killed process only repeats this part.

    `held_out` are batches by name; the names of metrics begin with it, unless it is empty.
    """

    task: Task
    models: Models
    settings: TrainingSettings
    held_out: Mapping[str, Iterable[Batch]]

    def complete(self, published: Checkpoint, *, model: torch.nn.Module | None = None) -> None:
        """Evaluate and clean up, on the writing rank; `model` saves loading it."""
        assert published.result is not None
        if self.held_out and not is_evaluated(published.result):
            if model is None:
                model = published.load(self.models).to(best_device())
            metrics: dict[str, float] = {}
            for name, batches in self.held_out.items():
                metrics |= _with_prefix(self._evaluate(model, batches), name)
            checkpoints.record(published, result=with_metrics(published.result, metrics))
        checkpoints.discard_steps(published.url)

    def _evaluate(self, model: torch.nn.Module, held_out: Iterable[Batch]) -> dict[str, float]:
        device = next(model.parameters()).device.type
        dtype = getattr(torch, self.settings.computes_in)
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            return self.task.evaluate(model, held_out)


def _with_prefix(metrics: Mapping[str, float], name: str) -> dict[str, float]:
    if not name:
        return dict(metrics)
    return {f"{name}_{key.removeprefix('eval_')}": value for key, value in metrics.items()}
