"""Semantic segmentation: one image, one class per pixel; the mean cross-entropy of valid pixels.

Works with every model of `AutoModelForSemanticSegmentation` (SegFormer, UperNet, DPT, BEiT, …).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.hf import model_store
from trainers.inputs.augmentation import Augmentation
from trainers.inputs.decoding.frame import Resize
from trainers.inputs.decoding.one_image import OneImage
from trainers.inputs.images import decode_map
from trainers.inputs.pixels import (
    PerChannel,
    per_channel,
    units_of,
)
from trainers.scoring import functional_gradient
from trainers.scoring.evaluation import eval_mode
from trainers.scoring.precision import at_least_float32
from trainers.task import NEWER, Batch, Item, Models

_IGNORED = -100


@dataclass(frozen=True)
class SemanticSegmentation(OneImage):
    """Semantic segmentation: one image, one class per pixel. See `Pixels` for other settings.

    Attributes:
        image: a column of images.
        mask: a column of images of class numbers, as large as the image.
        ignore_index: class of pixels that do not count.
        reduce_labels: class 0 does not count either, and class c is output c − 1 (ADE20k).
    """

    image: str = "image"
    mask: str = "mask"
    ignore_index: int = 255
    reduce_labels: bool = False
    image_size: int = 224
    num_channels: int = 3
    mean: PerChannel = 0.5
    std: PerChannel = 0.5
    processor: str | None = None
    backend: str = "pil"
    resize: Resize = field(default="stretch", metadata=NEWER)
    augment: bool | Augmentation = False
    flip: bool = False
    transform: str | None = field(default=None, metadata=NEWER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", per_channel(self.mean))
        object.__setattr__(self, "std", per_channel(self.std))
        self._pixels.check_unmixed()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image, self.mask)

    def check(self) -> None:
        """Check the image processor.

        Raises:
            InputError: it cannot be used.
        """
        self._pixels.check(keeps_frame=True)

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models of `AutoModelForSemanticSegmentation`."""
        example = {"pixel_values": self._pixels.example()}
        return model_store("AutoModelForSemanticSegmentation", settings, example=example)

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `pixels` [channels, height, width] and `labels` int64[height, width], -100 where
        not counted.
        """
        pixels, numbers = self._pixels.prepare_with_map(
            sample[self.image],
            decode_map(sample[self.mask]),
            fill=self.ignore_index,
            generator=generator,
        )
        labels = self._labels(numbers)
        if not bool((labels != _IGNORED).any()):
            raise SampleError("no pixel of the mask counts", status="empty")
        return {"pixels": pixels, "labels": labels, "num_units": units_of(pixels)}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `pixel_values` float32[batch, channels, height, width] and `labels` int64[batch,
        height, width].
        """
        return {
            "pixel_values": self._pixels.stack([item["pixels"] for item in items]),
            "labels": torch.stack([item["labels"] for item in items]),
        }

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean nats per valid pixel float32[batch], and their number int64[batch]: 0 for a
        mask with a class that the model lacks.
        """
        return _mean(*_nats(_logits(model, batch), batch["labels"]))

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the logits of each valid pixel."""
        logits = _logits(model, batch)
        nats, targets = _nats(logits, batch["labels"])
        flat = logits.movedim(1, -1).flatten(0, -2)
        norms = functional_gradient.cross_entropy_norms(flat, targets.clamp(min=0).flatten())
        gradients = functional_gradient.rms_over_units(
            norms.reshape(len(logits), -1), (targets != _IGNORED).flatten(1)
        )
        return *_mean(nats, targets), gradients

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean logit of the valid pixels' own classes, float[batch]."""
        logits = _logits(model, batch)
        _, targets = _nats(logits, batch["labels"])
        right = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
        return _mean(torch.where(targets != _IGNORED, right, 0.0), targets)[0]

    def pixel_maps(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the classes of the masks (-100: does not count), the predicted classes, and the
        nats of each pixel, all [batch, height, width].
        """
        logits = _logits(model, batch)
        nats, targets = _nats(logits, batch["labels"])
        return targets, logits.argmax(dim=1), nats

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss` (nats per valid pixel), `pixel_accuracy`, and `mean_iou`: intersection
        over union, the mean over the classes that occur in masks or predictions.
        """
        total, nats_sum, confusion = 0, 0.0, torch.zeros(0, dtype=torch.int64)
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                logits = _logits(model, batch)
                nats, targets = _nats(logits, batch["labels"])
                counted = targets != _IGNORED
                nats_sum += nats.double().sum().item()
                total += int(counted.sum())
                num_classes = logits.shape[1]
                pairs = targets[counted] * num_classes + logits.argmax(dim=1)[counted]
                counts = torch.bincount(pairs, minlength=num_classes**2).cpu()
                confusion = counts if not len(confusion) else confusion + counts
        if not total:
            raise InputError(
                "no pixel to evaluate: expected held-out masks with classes below the num_labels "
                "of the model's configuration"
            )
        side = round(len(confusion) ** 0.5)
        return {"eval_loss": nats_sum / total, **_overlap(confusion.reshape(side, side))}

    def _labels(self, numbers: torch.Tensor) -> torch.Tensor:
        labels = numbers.nan_to_num(-1.0, -1.0, -1.0).to(torch.int64)
        if bool(((numbers != labels) | (labels < 0) & (labels != self.ignore_index)).any()):
            raise SampleError(
                f"column {self.mask!r} holds numbers that are not classes", status="unreadable"
            )
        ignored = labels == self.ignore_index
        if self.reduce_labels:
            ignored |= labels == 0
            labels = labels - 1
        return labels.masked_fill(ignored, _IGNORED)


def _logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return logits float32[batch, classes, height, width] in the size of the labels."""
    pixels = batch["pixel_values"]
    try:
        logits = at_least_float32(model(pixel_values=pixels).logits)
    except ValueError as error:
        # UperNet pools to one pixel and normalises it over the batch.
        if len(pixels) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "this model cannot train on a single image: set batch_size and micro_batch_size so "
            "that every micro-batch has at least two"
        ) from error
    shape = batch["labels"].shape[-2:]
    if logits.shape[-2:] == shape:
        return logits
    return functional.interpolate(logits, size=shape, mode="bilinear", align_corners=False)


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cross-entropy float32[batch, height, width], and the labels that count: none in a mask
    with a class outside the head.
    """
    # Masked, because on a GPU such a label fails an assertion, which ends the process.
    unknown = (labels >= logits.shape[1]).flatten(1).any(dim=1)
    targets = labels.masked_fill(unknown[:, None, None], _IGNORED)
    nats = functional.cross_entropy(logits, targets, reduction="none", ignore_index=_IGNORED)
    return nats, targets


def _mean(values: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean over valid pixels of values that are 0 elsewhere, and their number."""
    num_units = (targets != _IGNORED).sum(dim=(1, 2))
    return values.sum(dim=(1, 2)) / num_units.clamp(min=1), num_units


def _overlap(confusion: torch.Tensor) -> dict[str, float]:
    """Return the metrics of pixel counts int64[target, prediction]."""
    both = confusion.diagonal().double()
    either = confusion.sum(dim=0) + confusion.sum(dim=1) - confusion.diagonal()
    occurs = either > 0
    return {
        "pixel_accuracy": float(both.sum() / confusion.sum()),
        "mean_iou": float((both[occurs] / either[occurs]).mean()),
    }
