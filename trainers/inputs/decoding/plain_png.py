"""Plain PNGs, decoded by the decoder of Pillow, without Pillow's parsing of the file.

For small images parsing takes longer than decoding. The pixels are those of `PIL.Image.open`,
because the decoder is the same.
"""

import functools
import zlib
from typing import Any

# The signature, and the length and type of the first chunk, IHDR.
_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
# Bits, colour type, compression, filter and interlacing in IHDR → mode of Pillow.
_MODES = {b"\x08\0\0\0\0": "L", b"\x08\x02\0\0\0": "RGB"}
_AFTER_HEADER = 33
# Bytes of a chunk beside its data: length, type and checksum.
_CHUNK_OVERHEAD = 12


def decode_plain_png(data: bytes, *, max_pixels: int) -> Any:
    """Return the Pillow image of a plain PNG; None for other files, which Pillow must open.

    A plain PNG is grey or RGB with 8 bits, is not interlaced, and has no chunks that could change
    its pixels: only IHDR, IDAT and IEND. A damaged file is left to Pillow, too, and so is one of
    more than `max_pixels`: nothing is allocated for it.
    """
    mode = _mode_of(data)
    if mode is None:
        return None
    width, height = _size_of(data)
    compressed = _compressed_pixels(data) if 0 < width * height <= max_pixels else None
    if compressed is None:
        return None
    from PIL import Image

    try:
        return Image.frombytes(mode, (width, height), compressed, "zip", mode)
    except (ValueError, OSError):
        return None


class GreyPngs:
    """Decoder of plain grey PNGs of one size, one after the other, into the same memory.

    An image object for each of them takes as long as decoding it.
    """

    def __init__(self, width: int, height: int) -> None:
        self._size, self._black = (width, height), bytes(width * height)
        self._memory = bytearray(self._black)
        self._image = _image_in(self._memory, self._size) if _can_share_memory() else None

    def decode(self, data: bytes) -> bytearray | None:
        """Return the pixels until the next call; None for other files than plain PNGs like this."""
        if self._image is None or _mode_of(data) != "L" or _size_of(data) != self._size:
            return None
        compressed = _compressed_pixels(data)
        # Pillow accepts pixels that end early: the others are black.
        self._memory[:] = self._black
        try:
            self._image.frombytes(compressed or b"", "zip", "L")
        except (ValueError, OSError):
            return None
        return self._memory


def _image_in(memory: bytearray, size: tuple[int, int]) -> Any:
    from PIL import Image

    array: Any = memory  # its buffer is enough
    return Image.frombuffer("L", size, array, "raw", "L", 0, 1)


@functools.cache
def _can_share_memory() -> bool:
    """Whether Pillow decodes into the memory that an image was made from; it promises less."""
    memory = bytearray(1)
    _image_in(memory, (1, 1)).frombytes(b"\7", "raw", "L")
    return memory == b"\7"


def _mode_of(data: bytes) -> str | None:
    """Return the mode of Pillow for the header of a plain PNG; None for other files."""
    mode = _MODES.get(data[24:29]) if data.startswith(_START) else None
    is_damaged = zlib.crc32(data[12:29]) != int.from_bytes(data[29:_AFTER_HEADER])
    return None if is_damaged else mode


def _size_of(data: bytes) -> tuple[int, int]:
    """Return width and height in the header."""
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _compressed_pixels(data: bytes) -> bytes | None:
    """Return the joined data of the IDAT chunks; None unless they are all that follows IHDR."""
    parts = []
    first = _AFTER_HEADER
    while data[first + 4 : first + 8] == b"IDAT":
        size = int.from_bytes(data[first : first + 4])
        parts.append(data[first + 8 : first + 8 + size])
        first += _CHUNK_OVERHEAD + size
    if data[first + 4 : first + 8] != b"IEND":
        return None
    return parts[0] if len(parts) == 1 else b"".join(parts)
