"""Decoding of images and maps from untrusted bytes, under size limits.

Only what returns a tensor imports torch.
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from attent_select.errors import SampleError
from trainers.inputs.decoding.jpeg import decode_jpeg
from trainers.inputs.decoding.plain_png import decode_plain_png

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Width and height of an image → those that its pixels are needed in.
LeastSize = Callable[[tuple[int, int]], tuple[int, int]]

# Allowed formats. Pillow has many more, some of which start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_ENCODED_BYTES = 64 << 20
MAX_PIXELS = 64 << 20

# Modes of Pillow, by the number of channels.
MODES = {1: "L", 3: "RGB"}

# Pillow scales grey pixels of fewer than 8 bits to 0–255, by these factors.
_GREY_FACTORS = {2: 85, 4: 17}
# Tags of TIFF, and of EXIF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 258, 262, 274


def decode_image(data: Any, *, num_channels: int, image_size: int) -> "torch.Tensor":
    """Decode an image to uint8[num_channels, image_size, image_size].

    Args:
        data: the encoded bytes, or a mapping with them under `bytes` (the Hugging Face layout).
        num_channels: 1 (grey) or 3 (RGB).
        image_size: pixels per side; other sizes are resized (bilinear), whatever the aspect ratio.

    Raises:
        SampleError: `unreadable` when the bytes are not an image of an allowed format or exceed the
            limits; `empty` when there are none.
    """
    return resize(open_image(data, num_channels=num_channels), image_size=image_size)


def open_image(data: Any, *, num_channels: int, least_size: LeastSize | None = None) -> Any:
    """Decode an image to a Pillow image, grey (1 channel) or RGB (3), in its original size.

    It is rotated as its EXIF orientation says, as every viewer and annotation tool shows it.
    Transparent pixels are on white.

    With `least_size`, a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size that
    is not below `least_size` of its (width, height), as its orientation is stored.

    Raises:
        SampleError: as `decode_image`.
    """

    def convert(image: Any, _: bytes) -> Any:
        _draft(image, least_size)
        return _in_mode(image, MODES[num_channels])

    return _decode(data, convert)


def open_pixels(
    data: Any, *, num_channels: int, least_size: LeastSize | None = None
) -> "torch.Tensor":
    """Decode an image as `open_image` does, to uint8[num_channels, height, width]."""
    import torch

    mode = MODES[num_channels]

    def convert(image: Any, encoded: bytes) -> "torch.Tensor":
        full_size = image.size
        _draft(image, least_size)
        if image.mode == mode and _is_upright(image):
            pixels = decode_jpeg(encoded, image, full_size=full_size)
            if pixels is not None:
                return torch.from_numpy(pixels).permute(2, 0, 1)
        return pixels_in(_in_mode(image, mode))

    return _decode(data, convert)


def resize(image: Any, *, image_size: int) -> "torch.Tensor":
    """Resize a Pillow image (bilinear) to uint8[channels, image_size, image_size]."""
    from PIL import Image

    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return pixels_in(image)


def pixels_in(image: Any) -> "torch.Tensor":
    """Return a grey or RGB Pillow image as uint8[channels, height, width]."""
    import torch

    # A writable copy; for small images a detour through numpy takes 1.5 × as long.
    tensor = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return tensor.view(image.height, image.width, -1).permute(2, 0, 1)


def image_of(pixels: "torch.Tensor") -> Any:
    """Return uint8[channels, height, width] as a grey or RGB Pillow image."""
    from PIL import Image

    channels_last = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(channels_last[..., 0] if len(pixels) == 1 else channels_last)


def decode_map(data: Any) -> "torch.Tensor":
    """Decode a map to float32[height, width]: one number per pixel, as stored.

    `data` is an image of one channel (of a palette the indices; 1 to 32 bits) or rows of numbers.
    A map is rotated only as its own EXIF orientation says.

    Raises:
        SampleError: as `decode_image`.
    """
    import torch

    if isinstance(data, list):
        return torch.from_numpy(_rows_of_numbers(data))

    def numbers(image: Any, encoded: bytes) -> npt.NDArray[np.float32]:
        if image.mode not in ("1", "L", "P", "I", "F") and not image.mode.startswith("I;16"):
            raise _unreadable(f"it has mode {image.mode}: expected one number per pixel")
        return _as_stored(image, np.array(_upright(image), dtype=np.float32), png_bits=encoded[24])

    return torch.from_numpy(_decode(data, numbers))


def _decode(data: Any, use: Callable[[Any, bytes], T]) -> T:
    """Return `use` of the opened image and its bytes."""
    from PIL import Image, UnidentifiedImageError

    data = check_encoded(data)
    try:
        plain = decode_plain_png(data, max_pixels=MAX_PIXELS)
        if plain is not None:
            return use(plain, data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _unreadable(f"{width} × {height} pixels exceed the limit of {MAX_PIXELS}")
            return use(image, data)
    except SampleError:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(f"the bytes are not one of {', '.join(FORMATS)}") from error
    except Exception as error:
        # Pillow's decoders raise almost any exception for hostile bytes.
        raise _unreadable(f"{type(error).__name__}: {error}") from error


def check_encoded(data: Any) -> bytes:
    """Return the encoded bytes of an image.

    Raises:
        SampleError: there are none, or too many.
    """
    if isinstance(data, dict):
        path, data = data.get("path"), data.get("bytes")
        if not data and path:
            raise _unreadable(
                f"it is only a path, {path!r}, without bytes. Embed the images"
                " (`Dataset.to_parquet` of `datasets` does)"
            )
    if data is None or data == b"":
        raise SampleError("the image is missing", status="empty")
    if not isinstance(data, bytes):
        raise _unreadable(f"expected encoded bytes, found {type(data).__name__}")
    if len(data) > MAX_ENCODED_BYTES:
        raise _unreadable(f"{len(data)} encoded bytes exceed the limit of {MAX_ENCODED_BYTES}")
    return data


def _rows_of_numbers(data: list[Any]) -> npt.NDArray[np.float32]:
    try:
        numbers = np.array(data, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise _unreadable(f"expected rows of numbers: {error}") from error
    if numbers.ndim != 2 or not numbers.size:
        raise _unreadable(f"expected rows of numbers, found shape {numbers.shape}")
    return numbers


def _draft(image: Any, least_size: LeastSize | None) -> None:
    """Let an opened JPEG be decoded at a part of its size that is not below `least_size` of it."""
    if least_size is not None and image.format == "JPEG":
        image.draft(None, least_size(image.size))


def _in_mode(image: Any, mode: str) -> Any:
    """Decode an opened image: upright, 8 bits, without transparency, in a mode of Pillow."""
    image.load()
    image = _on_white(_eight_bits(_upright(image)))
    return image if image.mode == mode else image.convert(mode)


def _is_upright(image: Any) -> bool:
    return "exif" not in image.info or image.getexif().get(_ORIENTATION, 1) == 1


def _upright(image: Any) -> Any:
    """Rotate an image as its EXIF orientation says."""
    from PIL import ImageOps

    # The look is cheaper than the check of every small image.
    has_orientation = image.format == "TIFF" or "exif" in image.info
    return ImageOps.exif_transpose(image) if has_orientation else image


def _on_white(image: Any) -> Any:
    """Put an image with transparent pixels on white."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")


def _as_stored(
    image: Any, numbers: npt.NDArray[np.float32], *, png_bits: int
) -> npt.NDArray[np.float32]:
    """Undo what Pillow does to grey pixels: it scales few bits, and inverts TIFF's min-is-white."""
    bits, is_inverted = 8, False
    if image.format == "TIFF":
        tags = image.tag_v2
        bits, is_inverted = tags.get(_BITS_PER_SAMPLE, (8,))[0], tags.get(_PHOTOMETRIC) == 0
    elif image.format == "PNG" and image.mode == "L":
        bits = png_bits  # in its header
    if image.mode == "L":
        numbers = numbers / np.float32(_GREY_FACTORS.get(bits, 1))
    if is_inverted and image.mode in ("1", "L"):
        largest = 1 if image.mode == "1" else 2**bits - 1
        numbers = np.float32(largest) - numbers
    return numbers


def _eight_bits(image: Any) -> Any:
    """Scale 16-bit grey to 8 bits: Pillow would clip it, to nearly white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _unreadable(f"pixels of mode {image.mode} have no known range")
    return image


def _unreadable(what: str) -> SampleError:
    return SampleError(f"the image cannot be decoded: {what}", status="unreadable")
