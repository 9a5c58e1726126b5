"""Image classification: one image, one label, cross-entropy.

Works with every model of `AutoModelForImageClassification`. Not here: decoding
(`trainers/images.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.evaluation import evaluating
from trainers.hf import HuggingFaceModels
from trainers.images import decode_image
from trainers.task import Batch, Item

_IGNORED = -100
_MAX_LABEL = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class ImageClassification:
    """Settings of the task.

    `image` and `label` are columns; `mean` and `std` are per channel, for pixels in [0, 1], and one
    number serves all channels. `augment` pads by an eighth and crops at random, and with `flip`
    mirrors half of the images: in training only.
    """

    image: str = "image"
    label: str = "label"
    image_size: int = 224
    num_channels: int = 3
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    augment: bool = False
    flip: bool = False

    def __post_init__(self) -> None:
        if self.num_channels not in (1, 3):
            raise InputError(f"num_channels is {self.num_channels}: expected 1 (grey) or 3 (RGB)")
        if self.image_size < 1:
            raise InputError(f"image_size is {self.image_size}: expected at least 1")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, float | int):
                # YAML and JSON have lists only; a frozen value needs a tuple.
                object.__setattr__(self, name, tuple(value))
                if len(value) != self.num_channels:
                    raise InputError(
                        f"{name} has {len(value)} numbers: expected {self.num_channels}"
                    )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image, self.label)

    def models(self, settings: dict[str, Any]) -> HuggingFaceModels:
        """Models of `AutoModelForImageClassification`."""
        return HuggingFaceModels("AutoModelForImageClassification", settings)

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """`pixels` uint8[channels, size, size] and `label`; an image costs one unit."""
        label = sample[self.label]
        if label is None:
            raise SampleError(f"column {self.label!r} is empty", status="empty")
        known = isinstance(label, int) and not isinstance(label, bool)
        if not known or not 0 <= label <= _MAX_LABEL:
            raise SampleError(
                f"column {self.label!r} holds {label!r}: expected a class number",
                status="unreadable",
            )
        pixels = decode_image(
            sample[self.image], num_channels=self.num_channels, image_size=self.image_size
        )
        if self.augment and generator is not None:
            pixels = self._augmented(pixels, generator)
        return {"pixels": pixels, "label": label, "num_units": 1}

    def collate(self, items: Sequence[Item]) -> Batch:
        """`pixel_values` float32[batch, channels, size, size] and `labels` int64[batch]."""
        # Scaled here and not one by one: for small images the calls would cost more than the
        # pixels.
        pixels = torch.stack([item["pixels"] for item in items]).to(torch.float32).div_(255.0)
        return {
            "pixel_values": pixels.sub_(_per_channel(self.mean)).div_(_per_channel(self.std)),
            "labels": torch.tensor([item["label"] for item in items], dtype=torch.int64),
        }

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy float32[batch] in nats; one unit each, none for a label that the model
        lacks.
        """
        logits: torch.Tensor = model(pixel_values=batch["pixel_values"]).logits
        return _cross_entropy(logits, batch["labels"])

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """`eval_loss` (nats per image) and `accuracy` in [0, 1], of the labels the model has."""
        total, loss_sum, correct = 0, 0.0, 0
        with evaluating(model) as to_device:
            for batch in map(to_device, batches):
                logits = model(pixel_values=batch["pixel_values"]).logits
                losses, num_units = _cross_entropy(logits, batch["labels"])
                loss_sum += losses.double().sum().item()
                correct += int((logits.argmax(dim=1) == batch["labels"]).sum())
                total += int(num_units.sum())
        if not total:
            raise InputError(
                "no sample to evaluate: expected at least one held-out batch, with labels below "
                "the num_labels of the model's configuration"
            )
        return {"eval_loss": loss_sum / total, "accuracy": correct / total}

    def _augmented(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        size = self.image_size
        margin = max(size // 8, 1)
        top, left, mirror = (
            int(torch.randint(high, (), generator=generator))
            for high in (2 * margin + 1, 2 * margin + 1, 2)
        )
        if self.flip and mirror:
            pixels = pixels.flip(-1)
        padded = functional.pad(pixels, (margin,) * 4)
        return padded[:, top : top + size, left : left + size]


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss float32[batch] and units int64[batch], both 0 for a label outside the head."""
    known = labels < logits.shape[1]
    # Masked, because such a label is an assert on a GPU, which ends the process.
    targets = labels.masked_fill(~known, _IGNORED)
    losses = functional.cross_entropy(
        logits.float(), targets, reduction="none", ignore_index=_IGNORED
    )
    return losses, known.to(torch.int64)


def _per_channel(value: float | tuple[float, ...]) -> torch.Tensor | float:
    return torch.tensor(value)[:, None, None] if isinstance(value, tuple) else float(value)
