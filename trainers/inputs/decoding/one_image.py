"""Base of tasks on one image: random draws, and the inputs of models without the task."""

from collections.abc import Sequence
from functools import cached_property

import torch

from attent_select.errors import SampleError
from catalogs.shard_format import Sample
from trainers.inputs.pixels import Pixels
from trainers.task import Batch, Item


class OneImage:
    """Base of tasks with one image in the column `image`, and nothing else that the model sees."""

    image: str

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels.of(self)

    @property
    def draws(self) -> bool:
        """Whether `prepare` draws random numbers: for augmentation only."""
        return self._pixels.draws

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.image,)

    def prepare_inputs(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return the `pixels` of each image, or the error that says why it cannot be read."""
        return self._pixels.items_of([sample[self.image] for sample in samples])

    def collate_inputs(self, items: Sequence[Item]) -> tuple[Batch, torch.Tensor]:
        """Return `pixel_values`, and one unit per image."""
        pixels = self._pixels.stack([item["pixels"] for item in items])
        return {"pixel_values": self._pixels.for_model(pixels)}, torch.ones(
            len(items), dtype=torch.int64
        )
