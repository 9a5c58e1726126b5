"""Evaluation: held-out batches, eval mode, sums over tokens."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.scoring.batching import batches
from trainers.settings import ScoringSettings
from trainers.task import Batch, Item, Task, packs


def held_out_batches(
    task: Task,
    samples: Iterable[Sample],
    *,
    settings: ScoringSettings,
    on_unusable: Callable[[int, SampleError], None] = lambda _number, _error: None,
) -> Iterator[Batch]:
    """Yield collated batches, made as for scoring.

    Samples that cannot be used are left out: `on_unusable` gets the number of each, from 0, and
    the error.
    """
    prepared = _prepare(task, samples, on_unusable)
    for batch in batches(prepared, settings, is_packed=packs(task)):
        yield task.collate([item for _, item in batch])


def _prepare(
    task: Task, samples: Iterable[Sample], on_unusable: Callable[[int, SampleError], None]
) -> Iterator[list[tuple[int, Item]]]:
    for number, sample in enumerate(samples):
        try:
            yield [(number, task.prepare(sample, generator=None))]
        except SampleError as error:
            on_unusable(number, error)


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[Callable[[Batch], Batch]]:
    """Set eval mode without gradients; yield a function that moves batches to its device."""
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.inference_mode():
            yield lambda batch: {
                name: value.to(device, non_blocking=True) for name, value in batch.items()
            }
    finally:
        model.train(was_training)


@dataclass
class TokenSums:
    """Sums of nats and hits over counted tokens."""

    num_tokens: int = 0
    nats: float = 0.0
    hits: int = 0

    def add(self, nats: torch.Tensor, hits: torch.Tensor) -> None:
        """Add nats float32[counted tokens] and hits bool[counted tokens]."""
        self.nats += nats.double().sum().item()
        self.hits += int(hits.sum())
        self.num_tokens += len(hits)

    def metrics(self) -> dict[str, float]:
        """Return `eval_loss`, `perplexity` and `accuracy`.

        Raises:
            InputError: no token was counted.
        """
        if not self.num_tokens:
            raise InputError("no tokens to evaluate: expected at least one held-out batch")
        loss = self.nats / self.num_tokens
        return {
            "eval_loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": self.hits / self.num_tokens,
        }
