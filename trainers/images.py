"""Decodes images from untrusted bytes, under size limits.

Here: bytes → uint8 tensor. Not here: augmentation or batching (`tasks/`).
"""

import io
from typing import Any

import numpy as np
import torch

from attent_select.errors import SampleError

# Formats that a corpus may hold. Pillow knows many more, some of which start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_ENCODED_BYTES = 64 << 20
MAX_PIXELS = 64 << 20


def decode_image(data: Any, *, num_channels: int, image_size: int) -> torch.Tensor:
    """uint8[num_channels, image_size, image_size] from an encoded image.

    Args:
        data: the encoded bytes, or a mapping with them under `bytes` (the Hugging Face layout).
        num_channels: 1 (grey) or 3 (RGB).
        image_size: pixels per side; another size is resized (bilinear), whatever its proportions.

    Raises:
        SampleError: `unreadable`, when the bytes are no image of an allowed format or pass the
            limits; `empty`, when there are none.
    """
    if isinstance(data, dict):
        data = data.get("bytes")
    if data is None or data == b"":
        raise SampleError("the image is missing", status="empty")
    if not isinstance(data, bytes):
        raise _unreadable(f"expected encoded bytes, found {type(data).__name__}")
    if len(data) > MAX_ENCODED_BYTES:
        raise _unreadable(f"{len(data)} encoded bytes are more than {MAX_ENCODED_BYTES}")
    pixels = _pixels(data, mode={1: "L", 3: "RGB"}[num_channels], image_size=image_size)
    tensor = torch.from_numpy(pixels)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def _pixels(data: bytes, *, mode: str, image_size: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _unreadable(f"{width} × {height} pixels are more than {MAX_PIXELS}")
            decoded = _eight_bits(image).convert(mode)
            if decoded.size != (image_size, image_size):
                decoded = decoded.resize((image_size, image_size), Image.Resampling.BILINEAR)
            return np.array(decoded, dtype=np.uint8)
    except SampleError:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(f"the bytes are none of {', '.join(FORMATS)}") from error
    except Exception as error:
        # Pillow's decoders answer hostile bytes with almost any exception.
        raise _unreadable(f"{type(error).__name__}: {error}") from error


def _eight_bits(image: Any) -> Any:
    """Grey of 16 bits scaled to 8: Pillow would clip it, to nearly white."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise _unreadable(f"pixels of mode {image.mode} have no known range")
    return image


def _unreadable(what: str) -> SampleError:
    return SampleError(f"the image cannot be decoded: {what}", status="unreadable")
