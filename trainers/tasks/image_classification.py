"""Image classification: one image, one label, cross-entropy.

Works with every model of `AutoModelForImageClassification` (ViT, DeiT, Swin, …).
"""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch.nn import functional

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from catalogs.tables.class_labels import Classes
from trainers.hf import model_store
from trainers.inputs.augmentation import Augmentation, mix_pairs
from trainers.inputs.decoding.frame import Decode, Resampling, Resize
from trainers.inputs.decoding.image_batches import batch_of
from trainers.inputs.decoding.one_image import OneImage
from trainers.inputs.draws import random_subset
from trainers.inputs.pixels import PerChannel, PixelDtype, per_channel
from trainers.scoring import functional_gradient, patches
from trainers.scoring.evaluation import eval_mode
from trainers.scoring.patches import PatchDropping
from trainers.scoring.precision import at_least_float32
from trainers.task import NEWER, Batch, Item, Models, SampleColumns

_IGNORED = -100
# Purpose of the draw of patches among the draws of a sample's key.
_PATCHES = 0


@dataclass(frozen=True)
class ImageClassification(OneImage):
    """Image classification: one image, one label, cross-entropy. See `Pixels` for other settings.

    Attributes:
        image: a column of images.
        label: a column of class numbers or names.
        classes: names of the classes 0, 1, …; a new run takes them from its corpus, if labels are
            names or the files name them.
        patches: train on a random share of the patches of each image.
    """

    image: str = "image"
    label: str = "label"
    classes: tuple[str, ...] | None = field(default=None, metadata=NEWER)
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
    decode: Decode = field(default="exact", metadata=NEWER)
    resampling: Resampling = field(default="pillow", metadata=NEWER)
    pixel_dtype: PixelDtype = field(default="float32", metadata=NEWER)
    patches: PatchDropping | None = field(default=None, metadata=NEWER)

    def __post_init__(self) -> None:
        # YAML and JSON have lists; a frozen value needs a tuple.
        object.__setattr__(self, "mean", per_channel(self.mean))
        object.__setattr__(self, "std", per_channel(self.std))
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
        assert self._pixels
        assert self._classes

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image, self.label)

    def check(self) -> None:
        """Check the image processor.

        Raises:
            InputError: it cannot be used.
        """
        self._pixels.check()

    def check_model(self, model: torch.nn.Module) -> None:
        """Raise `InputError` if patches are to be dropped and the model needs all of them."""
        if self.patches is not None:
            patches.check_model_type(model, setting="task.patches")

    def models(self, settings: dict[str, Any]) -> Models:
        """Return the store for models of `AutoModelForImageClassification`.

        The model has the names of the classes, unless `settings` have another number of labels.
        """
        settings = _with_class_names(settings, self.classes)
        example = {"pixel_values": self._pixels.example()}
        return model_store("AutoModelForImageClassification", settings, example=example)

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> Item:
        """Return `pixels` [channels, height, width] and `label`; an image costs one unit."""
        label = self._classes.number_of(sample[self.label])
        image = self._pixels.open(sample[self.image])
        (pixels,), _ = self._pixels.prepare([image], generator=generator)
        return {"pixels": pixels, "label": label, "num_units": 1}

    def collate_columns(self, columns: SampleColumns) -> tuple[Batch, dict[int, SampleError]]:
        """Return the batch of the samples that can be used, and the errors of the others."""
        labels: dict[int, int] = {}
        errors: dict[int, SampleError] = {}
        for position, label in enumerate(columns[self.label]):
            try:
                labels[position] = self._classes.number_of(label)
            except SampleError as error:
                errors[position] = error
        images = columns[self.image]
        encoded = [images[position] for position in labels]
        pixels, unreadable = batch_of(encoded, how=self._pixels)
        positions = list(labels)
        for number, problem in unreadable.items():
            errors[positions[number]] = problem
            del labels[positions[number]]
        numbers = torch.tensor(list(labels.values()), dtype=torch.int64)
        return {"pixel_values": pixels, "labels": numbers}, errors

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed in pairs in training (mixup, CutMix)."""
        return isinstance(self.augment, Augmentation) and self.augment.mixes

    @property
    def drops_until(self) -> float:
        """Share of the steps of a run that drop patches."""
        return 0.0 if self.patches is None else self.patches.until

    def mix(
        self, items: Sequence[Item | SampleError], generators: Iterable[torch.Generator]
    ) -> list[Item | SampleError]:
        """Return the items, each mixed with its partner, see `mix_pairs`."""
        assert isinstance(self.augment, Augmentation)
        return mix_pairs(items, generators, how=self.augment)

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return `pixel_values` [batch, channels, height, width] of `pixel_dtype`, and `labels`
        int64[batch].

        Of mixed samples also `shares` float32[batch], `other_labels` int64[batch], and `is_mixed`
        bool[batch].
        """
        labels = [item["label"] for item in items]
        batch = {
            "pixel_values": self._pixels.stack([item["pixels"] for item in items]),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
        if not any("share" in item for item in items):
            return batch
        shares = torch.tensor([item.get("share", 1.0) for item in items])
        others = [item.get("other_label", item["label"]) for item in items]
        other_labels = torch.tensor(others, dtype=torch.int64)
        return batch | {"shares": shares, "other_labels": other_labels, "is_mixed": shares < 1.0}

    def per_sample_loss(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cross-entropy float32[batch] in nats, and units int64[batch]: 1, or 0 for a label
        that the model lacks.

        The loss of a sample with the share λ in its mixture is λ·ℓ(its label) + (1 − λ)·ℓ(its
        partner's label), the second of which is 0 for a label that the model lacks.
        """
        logits, targets = self.class_logits(model, batch)
        losses, known = _cross_entropy(logits, targets)
        if "shares" not in batch:
            return losses, known
        others, _ = _cross_entropy(logits, _known_labels(batch["other_labels"], logits))
        return (batch["shares"] * losses + (1.0 - batch["shares"]) * others) * known, known

    def on_share(self, model: torch.nn.Module, *, share: float) -> AbstractContextManager[None]:
        """Return a context in which the model takes a share of the patches of each image."""
        return patches.on_share(model, share=share)

    def loss_and_gradient(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return also ‖∂ℓ/∂f‖ float32[batch], f being the logits."""
        logits, targets = self.class_logits(model, batch)
        losses, known = _cross_entropy(logits, targets)
        gradients = functional_gradient.cross_entropy_norms(logits, targets.clamp(min=0))
        return losses, known, gradients * known

    def class_logits(
        self, model: torch.nn.Module, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits float[batch, classes], and the labels, -100 for one outside the head.

        With `draw_keys` in the batch, the model takes a random share of the patches.
        """
        pixels = self._pixels.for_model(batch["pixel_values"])
        with self._on_drawn_patches(model, batch.get("draw_keys")):
            logits: torch.Tensor = model(pixel_values=pixels).logits
        return logits, _known_labels(batch["labels"], logits)

    def target_logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logit of the image's class, float[batch]."""
        logits, targets = self.class_logits(model, batch)
        return logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]

    def evaluate(self, model: torch.nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `eval_loss` (nats per image) and `accuracy` (top-1, in [0, 1]), over labels that
        the model has.
        """
        total, loss_sum, correct = 0, 0.0, 0
        with eval_mode(model) as to_device:
            for batch in map(to_device, batches):
                logits, targets = self.class_logits(model, batch)
                losses, num_units = _cross_entropy(logits, targets)
                loss_sum += losses.double().sum().item()
                correct += int((logits.argmax(dim=1) == targets).sum())
                total += int(num_units.sum())
        if not total:
            raise InputError(
                "no sample to evaluate: expected at least one held-out batch, with labels below "
                "the num_labels of the model's configuration"
            )
        return {"eval_loss": loss_sum / total, "accuracy": correct / total}

    def _on_drawn_patches(
        self, model: torch.nn.Module, keys: torch.Tensor | None
    ) -> AbstractContextManager[None]:
        if self.patches is None or keys is None:
            return nullcontext()
        draw = partial(random_subset, keys, share=self.patches.keep, purpose=_PATCHES)
        return patches.on_patches(model, lambda grid: draw(math.prod(grid)))

    @cached_property
    def _classes(self) -> Classes:
        return Classes(self.label, self.classes)


def _known_labels(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the labels, -100 for one outside the head."""
    # Masked, because on a GPU such a label fails an assertion, which ends the process.
    return labels.masked_fill(labels >= logits.shape[1], _IGNORED)


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss float32[batch] and units int64[batch], both 0 for a label outside the head."""
    losses = functional.cross_entropy(
        at_least_float32(logits),
        targets,
        reduction="none",
        ignore_index=_IGNORED,
    )
    return losses, (targets != _IGNORED).to(torch.int64)


def _with_class_names(settings: dict[str, Any], classes: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the settings of a model with `id2label` and `label2id`, which export keeps."""
    config = settings.get("config") or {}
    if classes is None or "id2label" in config:
        return settings
    if config.get("num_labels", len(classes)) != len(classes):
        return settings
    names = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    rest = {key: value for key, value in config.items() if key != "num_labels"}
    return {**settings, "config": {**rest, **names}}
