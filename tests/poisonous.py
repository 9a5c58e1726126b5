"""A task whose samples may end the process that prepares them, as a broken decoder would."""

import os
import signal
from dataclasses import dataclass

import torch

from catalogs.shard_format import Sample
from trainers.task import Item
from trainers.tasks.image_classification import ImageClassification

POISON = b"poison"


@dataclass(frozen=True)
class Poisonous(ImageClassification):
    """Digits; bytes that begin with `poison` kill."""

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        if sample[self.image].startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(sample, generator=generator)
