"""Decoded images → `pixel_values`, by the task's settings or the model's image processor.

Size, scale, normalisation, and augmentation that keeps images and maps aligned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from attent_select.errors import InputError, SampleError
from trainers.hf import load_image_processor
from trainers.inputs.images import MODES, open_image, resize
from trainers.task import Item

# One number for all channels, or one per channel.
PerChannel = float | tuple[float, ...]

# The cost of an image in units is its number of patches with this side, about its tokens.
_PATCH_SIDE = 16
_MAX_IMAGE_SIZE = 1 << 14


@dataclass(frozen=True)
class Pixels:
    """How images of one column become `pixel_values`.

    Without `processor`: resized to `image_size` (bilinear), scaled to [0, 1], normalised by `mean`
    and `std`. With it (a folder with preprocessor_config.json, or a name on the hub), the model's
    image processor does all of that, in its `backend`; backends give different pixels.
    """

    image_size: int
    num_channels: int
    mean: PerChannel
    std: PerChannel
    processor: str | None
    backend: str

    def __post_init__(self) -> None:
        if self.num_channels not in (1, 3):
            raise InputError(f"num_channels is {self.num_channels}: expected 1 (grey) or 3 (RGB)")
        if not 1 <= self.image_size <= _MAX_IMAGE_SIZE:
            raise InputError(
                f"image_size is {self.image_size}: expected 1 to {_MAX_IMAGE_SIZE} pixels"
            )
        if self.backend not in ("pil", "torchvision"):
            raise InputError(f"backend is {self.backend!r}: expected pil or torchvision")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.num_channels:
                raise InputError(f"{name} has {len(value)} numbers: expected {self.num_channels}")
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(map(math.isfinite, numbers)) or (name == "std" and min(numbers) <= 0):
                expected = "numbers above 0" if name == "std" else "finite numbers"
                raise InputError(f"{name} is {value}: expected {expected}")

    def check(self, *, keeps_frame: bool = False) -> None:
        """Check that the processor can be loaded and, with `keeps_frame`, that it neither crops nor
        pads, because a map beside the image would not follow.

        Raises:
            InputError: the processor cannot be used.
        """
        if self.processor is None:
            return
        processor = load_image_processor(self.processor, backend=self.backend)
        changes = [name for name in ("do_center_crop", "do_pad") if getattr(processor, name, None)]
        if keeps_frame and changes:
            raise InputError(
                f"processor: {self.processor} sets {' and '.join(changes)}, which targets beside "
                "the image do not follow: turn it off in its preprocessor_config.json"
            )

    def prepare(self, image: Any) -> torch.Tensor:
        """Prepare a Pillow image: uint8[channels, size, size], or float32 from the processor."""
        if self.processor is None:
            return resize(image, image_size=self.image_size)
        processor = load_image_processor(self.processor, backend=self.backend)
        try:
            pixels: torch.Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        except (ValueError, TypeError, IndexError) as error:
            raise SampleError(
                f"the processor in {self.processor} rejects an image of mode {image.mode} and "
                f"{image.width} × {image.height} pixels: {error}",
                status="unreadable",
            ) from error
        return pixels

    def items_of(self, images: Sequence[Any]) -> list[Item | SampleError]:
        """Return `pixels` and `num_units` of encoded images, or the error of one that is none."""
        items: list[Item | SampleError] = []
        for image in images:
            try:
                pixels = self.prepare(open_image(image, num_channels=self.num_channels))
            except SampleError as error:
                items.append(error)
            else:
                items.append({"pixels": pixels, "num_units": units_of(pixels)})
        return items

    def example(self, num_images: int = 1) -> torch.Tensor:
        """Return `pixel_values` of two samples with `num_images` each, on the device `meta`."""
        shape: tuple[int, ...] = (self.num_channels, self.image_size, self.image_size)
        if self.processor is not None:
            from PIL import Image

            shape = tuple(self.prepare(Image.new(MODES[self.num_channels], (64, 64))).shape)
        return torch.empty((2, num_images * shape[0], *shape[1:]), device="meta")

    def stack(self, prepared: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stack to `pixel_values` float32[batch, channels, height, width]."""
        if len({pixels.shape for pixels in prepared}) > 1:
            raise InputError(
                f"the processor in {self.processor} returns images of different sizes: set a fixed "
                "height and width in its preprocessor_config.json"
            )
        pixels = torch.stack(list(prepared)).to(torch.float32)
        if self.processor is not None:
            return pixels
        # Scaled as a batch: for small images, a call per image would dominate.
        return pixels.div_(255.0).sub_(_per_channel(self.mean)).div_(_per_channel(self.std))


def per_channel(value: Any) -> PerChannel:
    """Convert a number or a list of numbers from YAML to a hashable value."""
    return float(value) if isinstance(value, float | int) else tuple(value)


def units_of(pixels: torch.Tensor) -> int:
    """Return the units of an image [channels, height, width]: its patches of 16 × 16 pixels."""
    height, width = pixels.shape[-2:]
    return max(1, height * width // _PATCH_SIDE**2)


def image_and_map(
    image: Any, numbers: torch.Tensor, *, pixels: Pixels
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the prepared pixels of an encoded image, and its map float32[height, width] resized
    to the same frame (nearest: classes and depths are not averaged).

    Raises:
        SampleError: the sizes differ, or the image cannot be decoded.
    """
    opened = open_image(image, num_channels=pixels.num_channels)
    if opened.size[::-1] != tuple(numbers.shape):
        raise SampleError(
            f"the image has {opened.width} × {opened.height} pixels, its map {numbers.shape[1]} × "
            f"{numbers.shape[0]}: expected the same",
            status="unreadable",
        )
    prepared = pixels.prepare(opened)
    if numbers.shape != prepared.shape[-2:]:
        shape = [int(side) for side in prepared.shape[-2:]]
        numbers = functional.interpolate(numbers[None, None], shape, mode="nearest-exact")[0, 0]
    return prepared, numbers


def crop_and_flip(
    *layers: tuple[torch.Tensor, float], flip: bool, generator: torch.Generator
) -> list[torch.Tensor]:
    """Pad each (tensor[…, height, width], fill) by an eighth and crop all at the same random
    position; with `flip`, mirror all of them first with probability 1/2.
    """
    height, width = layers[0][0].shape[-2:]
    margin = max(max(height, width) // 8, 1)
    top, left, mirror = (
        int(torch.randint(high, (), generator=generator))
        for high in (2 * margin + 1, 2 * margin + 1, 2)
    )
    cropped = []
    for tensor, fill in layers:
        mirrored = tensor.flip(-1) if flip and mirror else tensor
        padded = functional.pad(mirrored, (margin,) * 4, value=fill)
        cropped.append(padded[..., top : top + height, left : left + width])
    return cropped


def _per_channel(value: PerChannel) -> torch.Tensor | float:
    return torch.tensor(value)[:, None, None] if isinstance(value, tuple) else value
