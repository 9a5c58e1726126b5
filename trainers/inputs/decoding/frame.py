"""Frames of images: which box of an image becomes which square, and what resizes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from trainers.inputs.augmentation import Box, MapLayer, centred_box
from trainers.inputs.images import pixels_in

# How an image of any size becomes a square one.
Resize = Literal["stretch", "crop", "pad"]

# Whether a JPEG is decoded in its full size, or scaled on the way where that is enough.
Decode = Literal["exact", "scaled"]

# What resizes images.
Resampling = Literal["pillow", "torch"]


@dataclass(frozen=True)
class Frame:
    """Geometry of an image and the maps beside it: `box` of the image, resized to `size` (width,
    height) and put in the middle of a square of `side` pixels (default: nothing is added).
    """

    box: Box
    size: tuple[int, int]
    side: int | None = None
    resampling: Resampling = "pillow"

    @classmethod
    def of(
        cls, size: tuple[int, int], *, side: int, how: Resize, resampling: Resampling = "pillow"
    ) -> "Frame":
        """Return the frame of an image of (width, height) in a square of `side` pixels."""
        if how == "crop":
            box = centred_box(size, min(size), min(size))
            return cls(box, (side, side), resampling=resampling)
        if how == "stretch":
            return cls((0, 0, *size), (side, side), resampling=resampling)
        width, height = (max(round(length * side / max(size)), 1) for length in size)
        return cls((0, 0, *size), (width, height), side, resampling)

    def pixels(self, image: Any) -> torch.Tensor:
        """Return an image in this frame (bilinear): uint8[channels, height, width].

        It is a Pillow image, or with the resampling of torch also uint8[channels, height, width].
        """
        from PIL import Image

        if self.resampling == "torch":
            layer = image if isinstance(image, torch.Tensor) else pixels_in(image)
            left, top, right, bottom = self.box
            layer = _resize_pixels(layer[:, top:bottom, left:right], self.size[::-1])
            return self._in_square(layer, 0.0)
        if self.box != (0, 0, *image.size):
            image = image.crop(self.box)
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.BILINEAR)
        return self._in_square(pixels_in(image), 0.0)

    def maps(self, maps: Sequence[MapLayer]) -> list[MapLayer]:
        """Return maps float32[height, width] in this frame (nearest)."""
        left, top, right, bottom = self.box
        return [
            (
                self._in_square(resize_map(each[top:bottom, left:right], self.size[::-1]), fill),
                fill,
            )
            for each, fill in maps
        ]

    def _in_square(self, layer: torch.Tensor, fill: float) -> torch.Tensor:
        if self.side is None or self.size == (self.side, self.side):
            return layer
        left, top, right, bottom = centred_box((self.side, self.side), *self.size)
        margins = (left, self.side - right, top, self.side - bottom)
        return functional.pad(layer, margins, value=fill)


def size_of(image: Any) -> tuple[int, int]:
    """Return width and height of a Pillow image, or of [channels, height, width]."""
    if isinstance(image, torch.Tensor):
        return image.shape[2], image.shape[1]
    width, height = image.size
    return width, height


def resize_map(numbers: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return a map float32[height, width] in another size (nearest)."""
    if tuple(numbers.shape) == tuple(size):
        return numbers
    shape = [int(length) for length in size]
    return functional.interpolate(numbers[None, None], shape, mode="nearest-exact")[0, 0]


def _resize_pixels(pixels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return uint8[channels, height, width] in another size (bilinear, antialiased)."""
    if tuple(pixels.shape[1:]) == tuple(size):
        return pixels
    shape = [int(length) for length in size]
    return functional.interpolate(pixels[None], shape, mode="bilinear", antialias=True)[0]
