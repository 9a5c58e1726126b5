"""Diffusion: the model predicts the noise that was added to an image.

The loss of a sample is the mean squared error of the predicted noise. In training it is that of one
random timestep. In scoring it is the mean over `score_timesteps` fixed ones, with noise drawn from
the sample, so that a score is reproducible. Works with `dit` (`trainers/hf/architectures/dit.py`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from attent_select.errors import InputError
from catalogs.shard_format import Sample
from catalogs.tables.class_labels import Classes
from trainers.hf import model_store
from trainers.inputs.augmentation import Augmentation
from trainers.inputs.decoding.frame import Decode, Resampling, Resize
from trainers.inputs.draws import draw_key, normals, uniforms
from trainers.inputs.pixels import PerChannel, PixelDtype, Pixels, per_channel, units_of
from trainers.scoring.evaluation import eval_mode
from trainers.scoring.precision import at_least_float32
from trainers.task import NEWER, Batch, Item, Models

_NOISE, _TIMESTEP = 2, 3


@dataclass(frozen=True)
class Diffusion:
    """Diffusion: the model predicts the noise of an image. See `Pixels` for other settings.

    Attributes:
        image: a column of images.
        label: the column of the class that the model is conditioned on.
        classes: names of the classes 0, 1, …, as of image classification.
        num_timesteps: timesteps of the noise.
        schedule: `linear` or `cosine`: noise of a timestep.
        score_timesteps: timesteps, evenly spaced, that a score is the mean over.
        seed: seed of the noise of scored samples.
    """

    image: str = "image"
    label: str | None = None
    classes: tuple[str, ...] | None = field(default=None, metadata=NEWER)
    num_timesteps: int = 1000
    schedule: str = "linear"
    score_timesteps: int = 4
    seed: int = 0
    image_size: int = 32
    num_channels: int = 3
    mean: PerChannel = 0.5
    std: PerChannel = 0.5
    resize: Resize = field(default="stretch", metadata=NEWER)
    augment: bool | Augmentation = False
    flip: bool = False
    transform: str | None = field(default=None, metadata=NEWER)
    decode: Decode = field(default="exact", metadata=NEWER)
    resampling: Resampling = field(default="pillow", metadata=NEWER)
    pixel_dtype: PixelDtype = field(default="float32", metadata=NEWER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", per_channel(self.mean))
        object.__setattr__(self, "std", per_channel(self.std))
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
        self._pixels.check_unmixed()
        assert self._classes
        if self.schedule not in ("linear", "cosine"):
            raise InputError(f"schedule is {self.schedule!r}: expected linear or cosine")
        if not 1 <= self.score_timesteps <= self.num_timesteps:
            raise InputError(
                f"score_timesteps is {self.score_timesteps}: expected 1 to num_timesteps, "
                f"{self.num_timesteps}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image, *([self.label] if self.label is not None else []))

    def check(self) -> None:
        """Check what augmentation needs.

        Raises:
            InputError: it cannot be used.
        """
        self._pixels.check()

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models of type `dit`."""
        numbers = torch.empty(2, dtype=torch.int64, device="meta")
        example = {"pixel_values": self._pixels.example(), "timesteps": numbers, "labels": numbers}
        return model_store(
            "AutoModelForPreTraining", settings, model_types=("dit",), example=example
        )

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `pixels` [channels, size, size], `label`, `key` (of the noise) and `timesteps`
        (their number; 0: one at random).
        """
        label = 0 if self.label is None else self._classes.number_of(sample[self.label])
        image = self._pixels.open(sample[self.image])
        key = None if generator is None else draw_key(seed=self.seed, generator=generator)
        (pixels,), _ = self._pixels.prepare([image], generator=generator)
        if key is None:
            key = draw_key(pixels.numpy().tobytes(), seed=self.seed, generator=None)
        passes = self.score_timesteps if generator is None else 1
        return {
            "pixels": pixels,
            "label": label,
            "key": key,
            "timesteps": 0 if generator is not None else passes,
            "num_units": units_of(pixels) * passes,
        }

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `pixel_values` [batch, channels, size, size] of `pixel_dtype`; `labels`, `keys`
        and `timesteps` int64[batch].
        """
        numbers = {
            name: torch.tensor([item[key] for item in items], dtype=torch.int64)
            for name, key in (("labels", "label"), ("keys", "key"), ("timesteps", "timesteps"))
        }
        return {"pixel_values": self._pixels.stack([item["pixels"] for item in items]), **numbers}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared error of the noise float32[batch], and units int64[batch]: one
        per timestep, 0 for a label that the model lacks.
        """
        inner: Any = model
        labels = batch["labels"]
        known = labels < inner.config.num_classes
        labels = labels.masked_fill(~known, 0)
        if int(batch["timesteps"][0]) == 0:
            random = uniforms(batch["keys"], 1, purpose=_TIMESTEP)[:, 0]
            steps = ((1.0 - random) * self.num_timesteps).to(torch.int64)[None]
        else:
            steps = self._scored_timesteps(batch["timesteps"])
        losses = torch.stack([self._error(model, batch, labels, step) for step in steps])
        return losses.mean(dim=0) * known, known * len(steps)

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the d numbers of the noise at each timestep.

        The derivative of a mean of d squares has the norm 2·√(ℓ/d), so it ranks samples as the loss
        does.
        """
        losses, num_units = self.per_sample_loss(model, batch)
        return losses, num_units, 2.0 * (losses / batch["pixel_values"][0].numel()).sqrt()

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss`: the mean over images, with the timesteps and noise of scoring."""
        total, loss_sum = 0, 0.0
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                losses, num_units = self.per_sample_loss(model, batch)
                loss_sum += float((losses.double() * num_units).sum())
                total += int(num_units.sum())
        if not total:
            raise InputError(
                "no image to evaluate: expected at least one held-out batch, with labels below "
                "the num_classes of the model's configuration"
            )
        return {"eval_loss": loss_sum / total}

    def _scored_timesteps(self, like: torch.Tensor) -> torch.Tensor:
        """Return the midpoints of equal intervals of timesteps, int64[score_timesteps, batch]."""
        numbers = torch.arange(self.score_timesteps, device=like.device)
        midpoints = (2 * numbers + 1) * self.num_timesteps // (2 * self.score_timesteps)
        return midpoints[:, None].expand(-1, len(like))

    def _error(
        self, model: torch.nn.Module, batch: Batch, labels: torch.Tensor, steps: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean squared error float32[batch] at one timestep per sample."""
        pixels = self._pixels.for_model(batch["pixel_values"])
        # Each timestep has different noise: a score is a mean over both.
        noise = normals(batch["keys"] + steps, pixels[0].numel(), purpose=_NOISE)
        noise = noise.reshape(pixels.shape)
        signal = self._signal(steps)[:, None, None, None]
        noisy = signal.sqrt() * pixels + (1.0 - signal).sqrt() * noise
        predicted = model(pixel_values=noisy, timesteps=steps, labels=labels).logits
        return (at_least_float32(predicted) - noise).square().mean(dim=(1, 2, 3))

    def _signal(self, steps: torch.Tensor) -> torch.Tensor:
        """Return ᾱ float32[batch]: the share of the image's variance that remains at a timestep.

        Sources: Ho, Jain and Abbeel 2020 (linear β from 1e-4 to 0.02 at 1,000 timesteps); Nichol
        and Dhariwal 2021 (cosine).
        """
        timesteps = torch.arange(self.num_timesteps, device=steps.device, dtype=torch.float32)
        if self.schedule == "linear":
            betas = 1e-4 + (0.02 - 1e-4) * timesteps / max(self.num_timesteps - 1, 1)
            betas = (betas * 1000 / self.num_timesteps).clamp(max=0.999)
            return torch.exp(torch.log1p(-betas).cumsum(0))[steps]
        angle = ((timesteps + 1) / self.num_timesteps + 0.008) / 1.008 * math.pi / 2
        start = math.cos(0.008 / 1.008 * math.pi / 2)
        return ((torch.cos(angle) / start) ** 2).clamp(1e-5, 1.0)[steps]

    @cached_property
    def _classes(self) -> Classes:
        return Classes(self.label or "", self.classes)

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels.of(self)
