"""JPEGs decoded by simplejpeg, where it is installed: the only module that imports it.

simplejpeg and Pillow call the same library, libjpeg-turbo, so that their pixels are the same.
Pillow copies them more often; for a Pillow image simplejpeg gains nothing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

# Modes of Pillow → the colours of simplejpeg, and their number.
_COLOURS = {"L": ("GRAY", 1), "RGB": ("RGB", 3)}
# Below this side two scales of libjpeg can give the same size.
_SMALLEST_SCALED_SIDE = 8

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


def decode_jpeg(
    data: bytes, image: Any, *, full_size: tuple[int, int]
) -> npt.NDArray[np.uint8] | None:
    """Return uint8[height, width, channels] of a JPEG; None where Pillow must decode it.

    Args:
        data: the encoded bytes.
        image: the same, as Pillow has opened it: its header is checked, and its pixels are not
            decoded. After `image.draft` it has the size that is decoded.
        full_size: width and height in the header.
    """
    is_scaled = image.size != full_size
    if (
        simplejpeg is None
        or image.format != "JPEG"
        or image.mode not in _COLOURS
        or (is_scaled and max(full_size) < _SMALLEST_SCALED_SIDE)
    ):
        return None
    colours, num_channels = _COLOURS[image.mode]
    # The header that simplejpeg reads cannot ask for more memory than that of Pillow.
    pixels = np.empty((image.height, image.width, num_channels), np.uint8)
    least = {"min_height": image.height, "min_width": image.width} if is_scaled else {}
    try:
        decoded = simplejpeg.decode_jpeg(data, colours, buffer=pixels, **least)
    except ValueError:  # Pillow reads some files that are damaged, and refuses others
        return None
    return pixels if decoded.shape == pixels.shape else None
