"""Decoded images → `pixel_values`, by the task's settings or the model's image processor.

Size, scale, normalisation, and augmentation that keeps images and maps aligned.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch

from attent_select.errors import InputError, SampleError
from trainers.hf import load_image_processor
from trainers.inputs.augmentation import (
    Augmentation,
    Box,
    MapLayer,
    OwnTransform,
    augment_layers,
    check_kornia,
    crop_and_flip,
    random_box,
)
from trainers.inputs.decoding.frame import (
    Decode,
    Frame,
    Resampling,
    Resize,
    resize_map,
    size_of,
)
from trainers.inputs.images import MODES, image_of, open_image, open_pixels
from trainers.task import Item

PixelDtype = Literal["float32", "uint8"]
# One number for all channels, or one per channel.
PerChannel = float | tuple[float, ...]

# The cost of an image in units is its number of patches with this side, about its tokens.
_PATCH_SIDE = 16
_MAX_IMAGE_SIZE = 1 << 14


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
        decode: `exact`, or `scaled`: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that
            is not below the size that it is resized to, which is quicker and changes pixels.
        resampling: what resizes images (bilinear): `pillow`, or `torch`, which is quicker and
            whose pixels differ by at most 1.
        pixel_dtype: of batches: `float32`, or `uint8`, a quarter of the bytes, which are
            normalised on the model's device.
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
    decode: Decode = "exact"
    resampling: Resampling = "pillow"
    pixel_dtype: PixelDtype = "float32"

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
        self._check_decoding()
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

    def _check_decoding(self) -> None:
        kinds = (("decode", Decode), ("resampling", Resampling), ("pixel_dtype", PixelDtype))
        for name, kind in kinds:
            if (value := getattr(self, name)) not in get_args(kind):
                expected = " or ".join(get_args(kind))
                raise InputError(f"{name} is {value!r}: expected {expected}")
        names = [name for name, kind in kinds if getattr(self, name) != get_args(kind)[0]]
        if self.processor is not None and names:
            raise InputError(
                f"{' and '.join(names)}: the processor resizes and normalises images itself: omit "
                "one of them"
            )
        how = self.augment
        if (
            self.decode == "scaled"
            and isinstance(how, Augmentation)
            and how.random_resized_crop is not None
        ):
            raise InputError(
                "decode is scaled, and augment.random_resized_crop cuts out parts of the full "
                "size: omit one of them"
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

    def open(self, encoded: Any) -> Any:
        """Return a decoded image for `prepare`, as these settings need it.

        Raises:
            SampleError: see `open_image`.
        """
        least_size = None
        if self.decode == "scaled":

            def least_size(size: tuple[int, int]) -> tuple[int, int]:
                return self.frame(size).size

        # A transform takes a Pillow image.
        is_tensor = self.resampling == "torch" and self.transform is None
        decode = open_pixels if is_tensor else open_image
        return decode(encoded, num_channels=self.num_channels, least_size=least_size)

    def frame(self, size: tuple[int, int]) -> Frame:
        """Return the frame of an image of (width, height)."""
        return Frame.of(size, side=self.image_size, how=self.resize, resampling=self.resampling)

    def prepare(
        self,
        images: Sequence[Any],
        maps: Sequence[MapLayer] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Prepare the images of a sample and the maps beside them, all of the same size.

        Args:
            images: those of `open`, or Pillow images, grey or RGB.
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
            frame = self.frame(size_of(images[0]))
            pixels, layers = [frame.pixels(image) for image in images], frame.maps(maps)
        if self.processor is not None:
            layers = [(resize_map(numbers, pixels[0].shape[-2:]), fill) for numbers, fill in layers]
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
        size = size_of(images[0])
        box: Box = (0, 0, *size)
        if how.random_resized_crop is not None:
            box = random_box(size, how=how.random_resized_crop, generator=generator)
        if self.processor is not None:  # it resizes what is cut out and changed
            frame = Frame(box, (box[2] - box[0], box[3] - box[1]))
        elif how.random_resized_crop is not None:
            side = self.image_size
            frame = Frame(box, (side, side), resampling=self.resampling)
        else:
            frame = self.frame(size)
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
                (pixels,), _ = self.prepare([self.open(image)])
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
        """Stack to `pixel_values` [batch, channels, height, width] of `pixel_dtype`."""
        if len({pixels.shape for pixels in prepared}) > 1:
            raise InputError(
                f"the processor in {self.processor} returns images of different sizes: set a fixed "
                "height and width in its preprocessor_config.json"
            )
        pixels = torch.stack(list(prepared))
        return pixels.to(torch.float32) if self.processor is not None else self.leave(pixels)

    def leave(self, decoded: torch.Tensor) -> torch.Tensor:
        """Return `pixel_values` of `pixel_dtype` from uint8[batch, channels, height, width]."""
        return decoded if self.pixel_dtype == "uint8" else self._normalise(decoded)

    def for_model(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return float32[batch, channels, height, width] of a batch on the model's device."""
        is_uint8 = pixel_values.dtype == torch.uint8
        return self._normalise(pixel_values) if is_uint8 else pixel_values

    def _normalise(self, decoded: torch.Tensor) -> torch.Tensor:
        # As a batch: for small images, a call per image would dominate.
        pixels = decoded.to(torch.float32)
        mean, std = (_per_channel(value, pixels.device) for value in (self.mean, self.std))
        return pixels.div_(255.0).sub_(mean).div_(std)


def per_channel(value: Any) -> PerChannel:
    """Convert a number or a list of numbers from YAML to a hashable value."""
    return float(value) if isinstance(value, float | int) else tuple(value)


def units_of(pixels: torch.Tensor) -> int:
    """Return the units of an image [channels, height, width]: its patches of 16 × 16 pixels."""
    height, width = pixels.shape[-2:]
    return max(1, height * width // _PATCH_SIDE**2)


def _per_channel(value: PerChannel, device: torch.device) -> torch.Tensor | float:
    return torch.tensor(value, device=device)[:, None, None] if isinstance(value, tuple) else value
