"""Flips, RandAugment and colour jitter, with the operations of kornia.

kornia's own classes draw from torch's global generator, which threads share. So all numbers are
drawn here, from the sample's generator, and kornia's functions get them as arguments.
"""

import math
from collections.abc import Callable, Sequence

import torch

from attent_select.extras import missing_extras_named
from trainers.inputs.augmentation.settings import (
    MAX_MAGNITUDE,
    Augmentation,
    ColorJitter,
    RandAugment,
)

# A map float32[height, width], and the value outside of it.
MapLayer = tuple[torch.Tensor, float]

# Changes of float32[images, channels, height, width] in [0, 1].
_Change = Callable[[torch.Tensor], torch.Tensor]

# Of RandAugment: operations that move pixels, with their largest strength (radians, slope, share of
# the side), and those that change colours, with the distance of their largest factor from 1.
_MOVES = {
    "rotate": math.radians(30),
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 150 / 331,
    "translate_y": 150 / 331,
}
_FACTORS = {"brightness": 0.9, "contrast": 0.9, "saturation": 0.9, "sharpness": 0.9}
_NAMES = (*_MOVES, *_FACTORS, "posterize", "solarize", "auto_contrast", "equalize", "identity")
# Bits that posterizing removes at most.
_POSTERIZED_BITS = 4
# kornia sharpens with a kernel of this side.
_SHARPEN_SIDE = 3


def check_kornia() -> None:
    """Raise `MissingExtraError` if kornia is not installed."""
    with missing_extras_named():
        import kornia  # noqa: F401


def augment_layers(
    images: Sequence[torch.Tensor],
    maps: Sequence[MapLayer],
    *,
    how: Augmentation,
    generator: torch.Generator,
) -> tuple[list[torch.Tensor], list[MapLayer]]:
    """Flip, and apply RandAugment and colour jitter: to all layers of a sample alike.

    Args:
        images: uint8[channels, height, width], all of the same shape.
        maps: of the same height and width; they follow what moves pixels (nearest), and are filled
            where nothing is.
        how: the settings.
        generator: of the sample.
    """
    layers = _Layers(list(images), list(maps))
    if float(torch.rand((), generator=generator)) < how.flip:
        layers.flip()
    if how.rand_augment is not None:
        _rand_augment(layers, how.rand_augment, generator)
    if how.color_jitter is not None:
        _color_jitter(layers, how.color_jitter, generator)
    return layers.images, layers.maps


class _Layers:
    """Images and maps of one sample, as they are changed."""

    def __init__(self, images: list[torch.Tensor], maps: list[MapLayer]) -> None:
        self.images, self.maps = images, maps

    def flip(self) -> None:
        self.images = [image.flip(-1) for image in self.images]
        self.maps = [(numbers.flip(-1), fill) for numbers, fill in self.maps]

    def change(self, change: _Change) -> None:
        stacked = torch.stack(self.images).to(torch.float32).div_(255.0)
        changed = change(stacked).mul(255.0).round_().clamp_(0.0, 255.0)
        self.images = list(changed.to(torch.uint8))

    def move(self, matrix: torch.Tensor) -> None:
        """Move all pixels by an affine matrix [2, 3] of positions (x, y); outside is black."""
        from kornia.geometry.transform import warp_affine

        height, width = self.images[0].shape[-2:]
        size, matrices = (height, width), matrix[None]

        def warp(stacked: torch.Tensor) -> torch.Tensor:
            each = matrices.expand(len(stacked), -1, -1)
            warped: torch.Tensor = warp_affine(stacked, each, size, padding_mode="zeros")
            return warped

        self.change(warp)
        if self.maps:
            # The numbers of pixels are moved, from 1: 0 is outside. Values may be NaN.
            numbers = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, *size)
            places = warp_affine(numbers, matrices.double(), size, mode="nearest")[0, 0].long()
            self.maps = [
                (torch.where(places > 0, values.flatten()[(places - 1).clamp(min=0)], fill), fill)
                for values, fill in self.maps
            ]


def _rand_augment(layers: _Layers, how: RandAugment, generator: torch.Generator) -> None:
    share = how.magnitude / MAX_MAGNITUDE
    for _ in range(how.num_ops):
        name = _NAMES[int(torch.randint(len(_NAMES), (), generator=generator))]
        sign = 1.0 - 2.0 * int(torch.randint(2, (), generator=generator))
        if name in _MOVES:
            height, width = layers.images[0].shape[-2:]
            layers.move(_matrix(name, sign * share * _MOVES[name], height=height, width=width))
        elif name in _FACTORS:
            layers.change(_by_factor(name, 1.0 + sign * share * _FACTORS[name]))
        elif name != "identity":
            layers.change(_by_share(name, share))


def _matrix(name: str, strength: float, *, height: int, width: int) -> torch.Tensor:
    """Return the matrix float32[2, 3] of a move around the middle of the image."""
    x, y = (width - 1) / 2, (height - 1) / 2
    cosine, sine = math.cos(strength), math.sin(strength)
    rows = {
        "rotate": (
            (cosine, sine, x - cosine * x - sine * y),
            (-sine, cosine, y + sine * x - cosine * y),
        ),
        "shear_x": ((1.0, strength, -strength * y), (0.0, 1.0, 0.0)),
        "shear_y": ((1.0, 0.0, 0.0), (strength, 1.0, -strength * x)),
        "translate_x": ((1.0, 0.0, round(strength * width)), (0.0, 1.0, 0.0)),
        "translate_y": ((1.0, 0.0, 0.0), (0.0, 1.0, round(strength * height))),
    }
    return torch.tensor(rows[name])


def _by_factor(name: str, factor: float) -> _Change:
    """Return the change that blends images with a version without contrast, colour, …"""
    from kornia import enhance

    if name == "sharpness":
        return lambda images: (
            images if min(images.shape[-2:]) < _SHARPEN_SIDE else enhance.sharpness(images, factor)
        )
    functions = {
        "brightness": enhance.adjust_brightness_accumulative,
        "contrast": enhance.adjust_contrast_with_mean_subtraction,
        "saturation": enhance.adjust_saturation_with_gray_subtraction,
    }
    return lambda images: functions[name](images, factor)


def _by_share(name: str, share: float) -> _Change:
    """Return a change by a share of its largest strength."""
    from kornia import enhance

    if name == "posterize":
        return lambda images: enhance.posterize(images, 8 - round(share * _POSTERIZED_BITS))
    if name == "solarize":
        return lambda images: enhance.solarize(images, 1.0 - share)
    if name == "equalize":
        equalize: _Change = enhance.equalize
        return equalize
    return lambda images: torch.where(
        images.amax((-2, -1), keepdim=True) > images.amin((-2, -1), keepdim=True),
        enhance.normalize_min_max(images),
        images,  # a constant plane stays
    )


def _color_jitter(layers: _Layers, how: ColorJitter, generator: torch.Generator) -> None:
    names = ("brightness", "contrast", "saturation", "hue")
    draws = torch.rand(len(names), generator=generator).tolist()
    for number in torch.randperm(len(names), generator=generator).tolist():
        name, most = names[number], getattr(how, names[number])
        if not most:
            continue
        if name == "hue":
            layers.change(_by_hue((2.0 * draws[number] - 1.0) * most))
        else:
            least = max(1.0 - most, 0.0)
            layers.change(_by_factor(name, least + draws[number] * (1.0 + most - least)))


def _by_hue(turns: float) -> _Change:
    from kornia.enhance import adjust_hue

    return lambda images: adjust_hue(images, turns * 2.0 * math.pi)
