"""Masked image modelling: the model predicts hidden patches from the visible ones.

The loss of a sample is the mean squared error over its hidden patches. Works with ViT-MAE (one
image) and with `multi_mae` (several modalities per sample,
`trainers/hf/architectures/multi_mae.py`). Which patches are hidden is drawn from the sample when it
is scored, so that a score is reproducible, and from (seed, epoch, sample) in training.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.hf import model_store
from trainers.inputs.augmentation import Augmentation
from trainers.inputs.decoding.frame import Resize
from trainers.inputs.draws import draw_key, uniforms
from trainers.inputs.images import open_image
from trainers.inputs.pixels import PerChannel, Pixels, per_channel, units_of
from trainers.scoring.evaluation import eval_mode
from trainers.scoring.precision import at_least_float32
from trainers.task import NEWER, Batch, Item, Models

_MASK = 1


@dataclass(frozen=True)
class MaskedImageModeling:
    """Masked image modelling: the model predicts hidden patches. See `Pixels` for other settings.

    Attributes:
        image: a column of images, or a list of them: the modalities of a sample, all of
            `num_channels` channels, of which `multi_mae` hides patches independently.
        seed: seed of the masks of scored samples.
    """

    image: str | tuple[str, ...] = "image"
    seed: int = 0
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
        if not isinstance(self.image, str):
            object.__setattr__(self, "image", tuple(self.image))
        if not self.columns:
            raise InputError("image is an empty list: expected at least one column")
        self._pixels.check_unmixed()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image,) if isinstance(self.image, str) else self.image

    def check(self) -> None:
        """Check the image processor.

        Raises:
            InputError: it cannot be used.
        """
        self._pixels.check(keeps_frame=len(self.columns) > 1)

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models: ViT-MAE for one image, `multi_mae` for any number."""
        config = settings.get("config", {})
        modalities = config.get("num_modalities", 2)
        if config.get("model_type") == "multi_mae" and modalities != len(self.columns):
            raise InputError(
                f"the task has {len(self.columns)} modalities, the model {modalities}: set "
                "model.config.num_modalities"
            )
        kinds = ("vit_mae", "multi_mae") if len(self.columns) == 1 else ("multi_mae",)
        example = {"pixel_values": self._pixels.example(len(self.columns))}
        return model_store("AutoModelForPreTraining", settings, model_types=kinds, example=example)

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `pixels` [modalities × channels, height, width] and `key` (of the mask)."""
        images = [open_image(sample[name], num_channels=self.num_channels) for name in self.columns]
        if len({image.size for image in images}) > 1:
            raise SampleError(
                f"{' and '.join(self.columns)} have different sizes", status="unreadable"
            )
        key = None if generator is None else draw_key(seed=self.seed, generator=generator)
        pixels = torch.cat(self._pixels.prepare(images, generator=generator)[0])
        if key is None:
            key = draw_key(pixels.numpy().tobytes(), seed=self.seed, generator=None)
        return {
            "pixels": pixels,
            "key": key,
            "num_units": units_of(pixels) * len(self.columns),
        }

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `pixel_values` float32[batch, modalities × channels, height, width] and `keys`
        int64[batch].
        """
        # One modality at a time, because mean and std are those of one modality.
        parts = [item["pixels"].split(self.num_channels) for item in items]
        stacked = [
            self._pixels.stack([part[place] for part in parts])
            for place in range(len(self.columns))
        ]
        return {
            "pixel_values": torch.cat(stacked, dim=1),
            "keys": torch.tensor([item["key"] for item in items], dtype=torch.int64),
        }

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared error per hidden patch float32[batch], and their number
        int64[batch]. Pixels are normalised per patch if the model's `norm_pix_loss` is set.
        """
        inner: Any = model
        pixels = batch["pixel_values"]
        target = inner.patchify(pixels)
        noise = uniforms(batch["keys"], target.shape[1], purpose=_MASK)
        output = model(pixel_values=pixels, noise=noise)
        if inner.config.norm_pix_loss:
            spread = target.var(dim=-1, keepdim=True) + 1e-6
            target = (target - target.mean(dim=-1, keepdim=True)) / spread.sqrt()
        errors = (at_least_float32(output.logits) - target).square().mean(dim=-1)
        hidden = output.mask.float()
        num_units = hidden.sum(dim=1)
        return (errors * hidden).sum(dim=1) / num_units, num_units.to(torch.int64)

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the d pixels of each hidden patch.

        The derivative of a mean of d squares has the norm 2·√(ℓ/d), so it ranks samples as the loss
        does.
        """
        losses, num_units = self.per_sample_loss(model, batch)
        inner: Any = model
        num_pixels = inner.patchify(batch["pixel_values"][:1]).shape[-1]
        return losses, num_units, 2.0 * (losses / num_pixels).sqrt()

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss`: the loss per hidden patch, with the masks of scoring."""
        total, loss_sum = 0, 0.0
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                losses, num_units = self.per_sample_loss(model, batch)
                loss_sum += float((losses.double() * num_units).sum())
                total += int(num_units.sum())
        if not total:
            raise InputError("no image to evaluate: expected at least one held-out batch")
        return {"eval_loss": loss_sum / total}

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels.of(self)
