"""Decoded images → `pixel_values`, by the task's settings or the model's image processor.

Size, scale, normalisation, and augmentation that keeps images and maps aligned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch.nn import functional

from attent_select.errors import InputError, SampleError
from catalogs.shard_format import Sample
from trainers.hf import load_image_processor
from trainers.inputs.augmentation import (
    Augmentation,
    Box,
    MapLayer,
    OwnTransform,
    augment_layers,
    centred_box,
    check_kornia,
    crop_and_flip,
    random_box,
)
from trainers.inputs.images import MODES, image_of, open_image, pixels_in
from trainers.task import Batch, Item

# One number for all channels, or one per channel.
PerChannel = float | tuple[float, ...]

# How an image of any size becomes a square one.
Resize = Literal["stretch", "crop", "pad"]

# The cost of an image in units is its number of patches with this side, about its tokens.
_PATCH_SIDE = 16
_MAX_IMAGE_SIZE = 1 << 14


@dataclass(frozen=True)
class Frame:
    """Geometry of an image and the maps beside it: `box` of the image, resized to `size` (width,
    height) and put in the middle of a square of `side` pixels (default: nothing is added).
    """

    box: Box
    size: tuple[int, int]
    side: int | None = None

    @classmethod
    def of(cls, size: tuple[int, int], *, side: int, how: Resize) -> "Frame":
        """Return the frame of an image of (width, height) in a square of `side` pixels."""
        if how == "crop":
            return cls(centred_box(size, min(size), min(size)), (side, side))
        if how == "stretch":
            return cls((0, 0, *size), (side, side))
        width, height = (max(round(length * side / max(size)), 1) for length in size)
        return cls((0, 0, *size), (width, height), side)

    def pixels(self, image: Any) -> torch.Tensor:
        """Return a Pillow image in this frame (bilinear): uint8[channels, height, width]."""
        from PIL import Image

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
                self._in_square(_resize_map(each[top:bottom, left:right], self.size[::-1]), fill),
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


@dataclass(frozen=True)
class Pixels:
    """How images of one column become `pixel_values`.

    In training, `transform` comes first, then `augment`.

    Attributes:
        image_size: height and width of what the model sees, in pixels.
        num_channels: 1 (grey) or 3 (RGB).
        mean: subtracted from pixels in [0, 1]: one number, or one per channel.
        std: divides them afterwards.
        processor: a folder with the model's image processor, or a name on the hub, which resizes
            and normalises instead.
        backend: `pil` or `torchvision`: implementation of the image processor. Their pixels differ.
        resize: how an image becomes square: `stretch` changes its ratio, `crop` takes the largest
            square in its middle, `pad` keeps all of it, in the middle of black pixels.
        augment: random changes in training, or true, which pads by an eighth and crops at random.
        flip: mirror half of the images in training.
        transform: dotted path of a function that changes images in training.
    """

    image_size: int
    num_channels: int
    mean: PerChannel
    std: PerChannel
    processor: str | None = None
    backend: str = "pil"
    resize: Resize = "stretch"
    augment: bool | Augmentation = False
    flip: bool = False
    transform: str | None = None

    def __post_init__(self) -> None:
        if self.num_channels not in (1, 3):
            raise InputError(f"num_channels is {self.num_channels}: expected 1 (grey) or 3 (RGB)")
        if not 1 <= self.image_size <= _MAX_IMAGE_SIZE:
            raise InputError(
                f"image_size is {self.image_size}: expected 1 to {_MAX_IMAGE_SIZE} pixels"
            )
        if self.backend not in ("pil", "torchvision"):
            raise InputError(f"backend is {self.backend!r}: expected pil or torchvision")
        self._check_geometry()
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.num_channels:
                raise InputError(f"{name} has {len(value)} numbers: expected {self.num_channels}")
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(map(math.isfinite, numbers)) or (name == "std" and min(numbers) <= 0):
                expected = "numbers above 0" if name == "std" else "finite numbers"
                raise InputError(f"{name} is {value}: expected {expected}")

    def _check_geometry(self) -> None:
        if self.resize not in get_args(Resize):
            raise InputError(f"resize is {self.resize!r}: expected {', '.join(get_args(Resize))}")
        if self.resize != "stretch" and self.processor is not None:
            raise InputError(
                f"resize is {self.resize}, and the processor resizes images itself: omit one of "
                "them"
            )
        if isinstance(self.augment, Augmentation):
            self.augment.check_channels(self.num_channels)
            if self.flip:
                raise InputError(
                    "flip: with settings in augment, the probability of a flip is one of them: "
                    "`augment: {flip: 0.5}`"
                )

    def check_unmixed(self) -> None:
        """Raise `InputError` for settings that mix samples, which only classification can learn."""
        if isinstance(self.augment, Augmentation) and self.augment.mixes:
            raise InputError(
                "augment: mixup and cutmix are for image_classification: other tasks have no label "
                "to mix"
            )

    def check(self, *, keeps_frame: bool = False) -> None:
        """Check that processor, kornia and transform can be loaded, as far as they are needed, and,
        with `keeps_frame`, that the processor neither crops nor pads, because a map beside the
        image would not follow.

        Raises:
            InputError: one of them cannot be used.
        """
        if isinstance(self.augment, Augmentation) and self.augment.needs_kornia:
            check_kornia()
        if self.transform is not None:
            OwnTransform(self.transform).check()
        if self.processor is None:
            return
        processor = load_image_processor(self.processor, backend=self.backend)
        changes = [name for name in ("do_center_crop", "do_pad") if getattr(processor, name, None)]
        if keeps_frame and changes:
            raise InputError(
                f"processor: {self.processor} sets {' and '.join(changes)}, which targets beside "
                "the image do not follow: turn it off in its preprocessor_config.json"
            )

    @classmethod
    def of(cls, task: Any) -> "Pixels":
        """Return the pixels of a task that has these settings, or some of them."""
        names = (each.name for each in fields(cls))
        return cls(**{name: getattr(task, name) for name in names if hasattr(task, name)})

    @property
    def draws(self) -> bool:
        """Whether images are changed at random in training."""
        return self.augment is not False or self.transform is not None

    def prepare(
        self,
        images: Sequence[Any],
        maps: Sequence[MapLayer] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Prepare the Pillow images of a sample and the maps beside them, all of the same size.

        Args:
            images: grey or RGB.
            maps: float32[height, width] each, with the value of pixels without a number.
            generator: of the sample, in training; None changes nothing at random.

        Returns:
            Each image as uint8[channels, size, size], or as the processor returns it (float32), and
            each map in the same frame (nearest: classes and depths are not averaged).
        """
        if generator is not None and self.transform is not None:
            keeps_size = bool(maps) or len(images) > 1
            own = OwnTransform(self.transform)
            images = own.apply(images, keeps_size=keeps_size, generator=generator)
        if generator is not None and isinstance(self.augment, Augmentation):
            pixels, layers = self._augment(images, maps, self.augment, generator)
        elif self.processor is not None:
            pixels, layers = [self._process(image) for image in images], list(maps)
        else:
            frame = Frame.of(images[0].size, side=self.image_size, how=self.resize)
            pixels, layers = [frame.pixels(image) for image in images], frame.maps(maps)
        if self.processor is not None:
            layers = [
                (_resize_map(numbers, pixels[0].shape[-2:]), fill) for numbers, fill in layers
            ]
        if generator is not None and self.augment is True:
            filled = [*((each, 0.0) for each in pixels), *layers]
            moved = crop_and_flip(*filled, flip=self.flip, generator=generator)
            return moved[: len(pixels)], moved[len(pixels) :]
        return pixels, [numbers for numbers, _ in layers]

    def _augment(
        self,
        images: Sequence[Any],
        maps: Sequence[MapLayer],
        how: Augmentation,
        generator: torch.Generator,
    ) -> tuple[list[torch.Tensor], list[MapLayer]]:
        size = images[0].size
        box: Box = (0, 0, *size)
        if how.random_resized_crop is not None:
            box = random_box(size, how=how.random_resized_crop, generator=generator)
        if self.processor is not None:  # it resizes what is cut out and changed
            frame = Frame(box, (box[2] - box[0], box[3] - box[1]))
        elif how.random_resized_crop is not None:
            frame = Frame(box, (self.image_size, self.image_size))
        else:
            frame = Frame.of(size, side=self.image_size, how=self.resize)
        pixels, layers = augment_layers(
            [frame.pixels(image) for image in images],
            frame.maps(maps),
            how=how,
            generator=generator,
        )
        if self.processor is not None:
            pixels = [self._process(image_of(each)) for each in pixels]
        return pixels, layers

    def prepare_with_map(
        self,
        encoded: Any,
        numbers: torch.Tensor,
        *,
        fill: float,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prepared pixels of an encoded image, and its map float32[height, width] in the
        same frame, `fill` where there is nothing.

        Raises:
            SampleError: the sizes differ, or the image cannot be decoded.
        """
        image = open_image(encoded, num_channels=self.num_channels)
        if image.size[::-1] != tuple(numbers.shape):
            raise SampleError(
                f"the image has {image.width} × {image.height} pixels, its map "
                f"{numbers.shape[1]} × {numbers.shape[0]}: expected the same",
                status="unreadable",
            )
        (pixels,), (numbers,) = self.prepare([image], [(numbers, fill)], generator=generator)
        return pixels, numbers

    def items_of(self, images: Sequence[Any]) -> list[Item | SampleError]:
        """Return `pixels` and `num_units` of encoded images, or the error of one that is none."""
        items: list[Item | SampleError] = []
        for image in images:
            try:
                (pixels,), _ = self.prepare([open_image(image, num_channels=self.num_channels)])
            except SampleError as error:
                items.append(error)
            else:
                items.append({"pixels": pixels, "num_units": units_of(pixels)})
        return items

    def _process(self, image: Any) -> torch.Tensor:
        """Return float32[channels, height, width] of a Pillow image from the processor."""
        assert self.processor is not None
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

    def example(self, num_images: int = 1) -> torch.Tensor:
        """Return `pixel_values` of two samples with `num_images` each, on the device `meta`."""
        shape: tuple[int, ...] = (self.num_channels, self.image_size, self.image_size)
        if self.processor is not None:
            from PIL import Image

            shape = tuple(self._process(Image.new(MODES[self.num_channels], (64, 64))).shape)
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


class OneImage:
    """Base of tasks with one image in the column `image`, and nothing else that the model sees."""

    image: str

    @cached_property
    def _pixels(self) -> Pixels:
        return Pixels.of(self)

    @property
    def draws(self) -> bool:
        """Whether `prepare` draws random numbers: for augmentation only."""
        return self._pixels.draws

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.image,)

    def prepare_inputs(self, samples: Sequence[Sample]) -> list[Item | SampleError]:
        """Return the `pixels` of each image, or the error that says why it cannot be read."""
        return self._pixels.items_of([sample[self.image] for sample in samples])

    def collate_inputs(self, items: Sequence[Item]) -> tuple[Batch, torch.Tensor]:
        """Return `pixel_values`, and one unit per image."""
        pixels = self._pixels.stack([item["pixels"] for item in items])
        return {"pixel_values": pixels}, torch.ones(len(items), dtype=torch.int64)


def _resize_map(numbers: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return a map float32[height, width] in another size (nearest)."""
    if tuple(numbers.shape) == tuple(size):
        return numbers
    shape = [int(length) for length in size]
    return functional.interpolate(numbers[None, None], shape, mode="nearest-exact")[0, 0]


def _per_channel(value: PerChannel) -> torch.Tensor | float:
    return torch.tensor(value)[:, None, None] if isinstance(value, tuple) else value
