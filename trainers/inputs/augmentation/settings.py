"""Settings of augmentation."""

import math
from dataclasses import dataclass
from typing import ClassVar

from attent_select.errors import InputError

# The magnitudes of RandAugment are 0 to this.
MAX_MAGNITUDE = 30
_MAX_OPERATIONS = 14


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to the image size.

    Attributes:
        scale: smallest and largest area, as a share of the image's.
        ratio: smallest and largest width ÷ height.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            smallest, largest = getattr(self, name)
            if not 0 < smallest <= largest <= most or largest == math.inf:
                expected = "in (0, 1]" if name == "scale" else "above 0"
                raise InputError(
                    f"{name} is [{smallest}, {largest}]: expected two numbers {expected}, the "
                    "smaller one first"
                )
            object.__setattr__(self, name, (smallest, largest))


@dataclass(frozen=True)
class ColorJitter:
    """Random changes of colour, in random order.

    Attributes:
        brightness: factors are uniform in [1 − b, 1 + b], at least 0; so are the next two.
        contrast: of the difference from the mean grey.
        saturation: of the difference from grey.
        hue: turns of the colour wheel, uniform in [−h, h], h at most 0.5.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "hue"):
            value, most = getattr(self, name), 0.5 if name == "hue" else math.inf
            if not 0 <= value <= most or value == math.inf:
                expected = "0 to 0.5 turns" if name == "hue" else "0 (off) or more"
                raise InputError(f"{name} is {value}: expected {expected}")


@dataclass(frozen=True)
class RandAugment:
    """Random operations of the 14 of RandAugment (Cubuk et al., 2020).

    Attributes:
        num_ops: operations per image, drawn with replacement.
        magnitude: strength of all of them, 0 to 30.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    num_ops: int = 2
    magnitude: float = 9.0

    def __post_init__(self) -> None:
        if not 1 <= self.num_ops <= _MAX_OPERATIONS:
            raise InputError(f"num_ops is {self.num_ops}: expected 1 to {_MAX_OPERATIONS}")
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise InputError(f"magnitude is {self.magnitude}: expected 0 to {MAX_MAGNITUDE}")


@dataclass(frozen=True)
class Augmentation:
    """Random changes of images in training, applied in the order of these attributes.

    Attributes:
        random_resized_crop: takes the place of `task.resize`.
        flip: probability of mirroring left and right.
        rand_augment: needs kornia; so does the next one.
        color_jitter: of images with colours; brightness and contrast also of grey ones.
        mixup: α of Beta(α, α), the distribution of a sample's share in its mixture; 0: off.
        cutmix: the same for the area that stays of a sample. With both, each is used for half of
            the samples.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    random_resized_crop: RandomResizedCrop | None = None
    flip: float = 0.0
    rand_augment: RandAugment | None = None
    color_jitter: ColorJitter | None = None
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip is {self.flip}: expected a probability, 0 to 1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}: expected 0 (off) or more")

    @property
    def needs_kornia(self) -> bool:
        """Whether it has operations of kornia."""
        return self.rand_augment is not None or self.color_jitter is not None

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0

    def check_channels(self, num_channels: int) -> None:
        """Raise `InputError` for changes of colour of grey images."""
        jitter = self.color_jitter
        if num_channels == 1 and jitter is not None and (jitter.saturation or jitter.hue):
            raise InputError(
                "augment.color_jitter has saturation or hue, and num_channels is 1: grey images "
                "have only brightness and contrast"
            )
