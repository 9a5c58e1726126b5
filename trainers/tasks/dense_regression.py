"""Dense regression: one image, one number per pixel (depth, distance, height, …).

The loss of a sample is the mean over its valid pixels. Works with every model of
`AutoModelForDepthEstimation` (DPT, GLPN, Depth Anything, …).
"""

import math
from collections.abc import Callable, Iterable, Sequence
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

_LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "l1": lambda error: error.abs(),
    "l2": torch.square,
    "huber": lambda error: functional.huber_loss(error, torch.zeros_like(error), reduction="none"),
}

# Derivative of each loss with respect to the error.
_SLOPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "l1": torch.sign,
    "l2": lambda error: 2.0 * error,
    "huber": lambda error: error.clamp(-1.0, 1.0),
}


@dataclass(frozen=True)
class DenseRegression(OneImage):
    """Dense regression: one image, one number per pixel. See `Pixels` for other settings.

    Attributes:
        image: a column of images.
        target: a column of images of one channel, as large as the image, or of rows of numbers.
        valid: a column of images; pixels with 0 in it do not count.
        invalid: stored number of pixels that do not count, as those that are not finite.
        scale: factor of the stored numbers.
        loss: `l1`, `l2` or `huber` (δ = 1), of scaled numbers.
    """

    image: str = "image"
    target: str = "target"
    valid: str | None = None
    invalid: float | None = None
    scale: float = 1.0
    loss: str = "l1"
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
        if self.loss not in _LOSSES:
            raise InputError(f"loss is {self.loss!r}: expected one of {', '.join(_LOSSES)}")
        if not math.isfinite(self.scale) or self.scale == 0:
            raise InputError(f"scale is {self.scale}: expected a number other than 0")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image, self.target, *([self.valid] if self.valid is not None else []))

    def check(self) -> None:
        """Check the image processor.

        Raises:
            InputError: it cannot be used.
        """
        self._pixels.check(keeps_frame=True)

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models of `AutoModelForDepthEstimation`."""
        example = {"pixel_values": self._pixels.example()}
        return model_store("AutoModelForDepthEstimation", settings, example=example)

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `pixels` [channels, height, width] and `targets` float32[height, width], NaN where
        invalid.
        """
        pixels, numbers = self._pixels.prepare_with_map(
            sample[self.image],
            self._valid_numbers(sample),
            fill=math.nan,
            generator=generator,
        )
        targets = numbers * self.scale
        if bool(targets.isnan().all()):
            raise SampleError("no pixel of the target is valid", status="empty")
        return {"pixels": pixels, "targets": targets, "num_units": units_of(pixels)}

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `pixel_values` float32[batch, channels, height, width] and `targets`
        float32[batch, height, width].
        """
        return {
            "pixel_values": self._pixels.stack([item["pixels"] for item in items]),
            "targets": torch.stack([item["targets"] for item in items]),
        }

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss per valid pixel float32[batch], and their number int64[batch]."""
        return self._mean_loss(*_errors(model, batch))

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the predictions for the valid pixels."""
        error, valid = _errors(model, batch)
        slopes = _SLOPES[self.loss](error).flatten(1)
        gradients = functional_gradient.rms_over_units(slopes, valid.flatten(1))
        return *self._mean_loss(error, valid), gradients

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss`, `rmse` and `mae` per valid pixel, and `delta1`: the share of pixels
        with a positive target and max(prediction / target, target / prediction) < 1.25.
        """
        sums = torch.zeros(6, dtype=torch.float64)
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                error, valid = _errors(model, batch)
                target = batch["targets"][valid]
                positive = target > 0
                predicted = (error[valid] + target)[positive]
                # As products, so that a prediction of 0 or less does not divide.
                near = predicted < 1.25 * target[positive]
                near &= target[positive] < 1.25 * predicted
                squared, absolute = error.double().square().sum(), error.double().abs().sum()
                loss = _LOSSES[self.loss](error).double().sum()
                numbers = (loss, squared, absolute, near.sum(), positive.sum(), valid.sum())
                sums += torch.stack([number.double().cpu() for number in numbers])
        loss_sum, squared_sum, absolute_sum, hits, num_positive, total = sums.tolist()
        if not total:
            raise InputError("no pixel to evaluate: expected held-out targets with valid pixels")
        metrics = {
            "eval_loss": loss_sum / total,
            "rmse": math.sqrt(squared_sum / total),
            "mae": absolute_sum / total,
        }
        return metrics | ({"delta1": hits / num_positive} if num_positive else {})

    def _mean_loss(
        self, error: torch.Tensor, valid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_units = valid.sum(dim=(1, 2))
        losses = _LOSSES[self.loss](error)
        return losses.sum(dim=(1, 2)) / num_units.clamp(min=1), num_units

    def _valid_numbers(self, sample: Sample) -> torch.Tensor:
        """Return the target float32[height, width], NaN where invalid."""
        numbers = decode_map(sample[self.target])
        valid = numbers.isfinite()
        if self.invalid is not None:
            valid &= numbers != self.invalid
        if self.valid is not None:
            mask = decode_map(sample[self.valid])
            if mask.shape != numbers.shape:
                raise SampleError(
                    f"column {self.valid!r} has the shape {tuple(mask.shape)}, the target "
                    f"{tuple(numbers.shape)}: expected the same",
                    status="unreadable",
                )
            valid &= mask != 0
        return torch.where(valid, numbers, math.nan)


def _errors(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prediction − target float32[batch, height, width], 0 where invalid; valid bool[…]."""
    predicted = at_least_float32(model(pixel_values=batch["pixel_values"]).predicted_depth)
    targets = batch["targets"]
    if predicted.shape[-2:] != targets.shape[-2:]:
        predicted = functional.interpolate(
            predicted[:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
    valid = targets.isfinite()
    # Where, not a product: 0 × NaN is NaN, in the gradient too.
    return torch.where(valid, predicted - targets.nan_to_num(), 0.0), valid
