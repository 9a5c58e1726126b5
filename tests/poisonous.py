"""Tasks that go wrong: samples that end the process, as a broken decoder would, and samples or
batches that do not fit into memory.
"""

import os
import signal
import threading
from dataclasses import dataclass

import torch

from catalogs.shard_format import Sample
from trainers.task import Batch, Item
from trainers.tasks.image_classification import ImageClassification

POISON = b"poison"


@dataclass(frozen=True)
class Poisonous(ImageClassification):
    """Digits; bytes that begin with `poison` kill."""

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        if sample[self.image].startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(sample, generator=generator)


@dataclass(frozen=True)
class Gluttonous(ImageClassification):
    """Digits; bytes that begin with `poison` take memory until the process is killed."""

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        if sample[self.image].startswith(POISON):
            memory = torch.ones(1 << 30, dtype=torch.uint8)
            threading.Event().wait()
            del memory
        return super().prepare(sample, generator=generator)


@dataclass(frozen=True)
class Hungry(ImageClassification):
    """Digits; a batch of more than `most` images runs out of memory."""

    most: int = 9

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(batch["labels"]) > self.most:
            raise torch.OutOfMemoryError("too many images")
        return super().per_sample_loss(model, batch)
