"""Quick decoders: the pixels of Pillow, and its refusals."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from attent_select.errors import SampleError
from trainers.inputs.decoding.image_batches import batch_of
from trainers.inputs.decoding.plain_png import GreyPngs, decode_plain_png
from trainers.inputs.images import open_image
from trainers.inputs.pixels import Pixels

MAX_PIXELS = 1 << 20


def noise(width: int, height: int, *, mode: str, seed: int = 0) -> Image.Image:
    """Random pixels beside smooth ones, so that every filter of a PNG is used."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels))
    pixels[: height // 2] = pixels[:1, :1] + np.arange(width)[None, :, None]
    return Image.frombytes(mode, (width, height), pixels.astype(np.uint8).tobytes())


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow_pixels(data: bytes, mode: str) -> np.ndarray | None:
    """The pixels, or None where Pillow refuses the file."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return np.asarray(image.convert(mode))
    except Exception:  # noqa: BLE001  (Pillow raises almost any exception for damaged bytes)
        return None


def our_pixels(data: bytes, mode: str) -> np.ndarray | None:
    try:
        return np.asarray(open_image(data, num_channels=len(mode)))
    except SampleError:
        return None


def assert_same(first: np.ndarray | None, second: np.ndarray | None) -> None:
    assert (first is None) == (second is None)
    assert first is None or np.array_equal(first, second)


SIDES = st.integers(1, 40)
MODES = st.sampled_from(["L", "RGB"])


@given(width=SIDES, height=SIDES, mode=MODES, target=MODES, level=st.integers(0, 9))
def test_plain_pngs_have_the_pixels_of_pillow(
    width: int, height: int, mode: str, target: str, level: int
) -> None:
    data = encoded(noise(width, height, mode=mode), compress_level=level)
    image = decode_plain_png(data, max_pixels=MAX_PIXELS)
    assert (image.mode, image.size) == (mode, (width, height))
    assert_same(our_pixels(data, target), pillow_pixels(data, target))


@given(
    mode=MODES,
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
)
def test_damaged_pngs_are_refused_where_pillow_refuses_them(
    mode: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(encoded(noise(9, 12, mode=mode)))
    for place, change in flips:
        data[int(place * len(data))] ^= change
    damaged = bytes(data[: round(cut * len(data))] if not flips else data)
    assert_same(our_pixels(damaged, mode), pillow_pixels(damaged, mode))


def chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_of_chunks(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 8, 0, 0, 0, 0))
ROWS = zlib.compress(b"".join(b"\0" + bytes([row] * 4) for row in range(3)))
END = chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        png_of_chunks(HEADER, chunk(b"IDAT", ROWS[:5]), chunk(b"IDAT", ROWS[5:]), END),
        png_of_chunks(HEADER, chunk(b"IDAT", b""), chunk(b"IDAT", ROWS), END),
        png_of_chunks(HEADER, chunk(b"IDAT", ROWS), END) + b"behind the end",
        # A wrong checksum of the pixels, which is their last four bytes.
        png_of_chunks(HEADER, chunk(b"IDAT", ROWS[:-4] + b"\0\0\0\0"), END),
        png_of_chunks(HEADER, chunk(b"IDAT", ROWS[:-4]), chunk(b"IDAT", b"\0\0\0\0"), END),
        png_of_chunks(HEADER, chunk(b"IDAT", ROWS[:-4]), END),
        png_of_chunks(HEADER, chunk(b"IDAT", zlib.compress(b"\0\1\1\1\1")), END),
        png_of_chunks(HEADER, chunk(b"IDAT", zlib.compress(b"\7\1\1\1\1" * 3)), END),
        png_of_chunks(HEADER, chunk(b"IDAT", zlib.compress(bytes(500))), END),
        png_of_chunks(HEADER, END),
        png_of_chunks(HEADER[:-1] + b"\0", chunk(b"IDAT", ROWS), END),
        png_of_chunks(chunk(b"IHDR", HEADER[8:21] + b"more"), chunk(b"IDAT", ROWS), END),
    ],
)
def test_unusual_pngs_are_read_or_refused_as_by_pillow(data: bytes) -> None:
    assert_same(our_pixels(data, "L"), pillow_pixels(data, "L"))


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x112] = value
    return exif.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise(9, 7, mode="RGBA")),
        encoded(noise(9, 7, mode="LA")),
        encoded(noise(9, 7, mode="RGB").quantize()),
        encoded(noise(9, 7, mode="L").convert("1")),
        encoded(noise(9, 7, mode="RGB"), transparency=(1, 2, 3)),
        encoded(noise(9, 7, mode="RGB"), exif=orientation(6)),
        encoded(Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9))),
        encoded(
            noise(9, 7, mode="RGB"), save_all=True, append_images=[noise(9, 7, mode="RGB", seed=1)]
        ),
        encoded(noise(9, 7, mode="RGB"), icc_profile=b"a profile"),
    ],
)
def test_other_pngs_are_left_to_pillow(data: bytes) -> None:
    assert decode_plain_png(data, max_pixels=MAX_PIXELS) is None


def test_what_follows_the_pixels_is_left_to_pillow() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "at the end", zip=True)
    plain = encoded(noise(9, 7, mode="RGB"))
    text = encoded(noise(9, 7, mode="RGB"), pnginfo=notes)
    late = plain[:-12] + chunk(b"eXIf", orientation(6)) + plain[-12:]
    assert decode_plain_png(text, max_pixels=MAX_PIXELS) is None
    assert decode_plain_png(late, max_pixels=MAX_PIXELS) is None
    assert open_image(late, num_channels=3).size == (7, 9)


def test_nothing_is_decoded_beyond_the_limit_of_pixels() -> None:
    data = encoded(noise(9, 7, mode="L"))
    assert decode_plain_png(data, max_pixels=62) is None
    assert decode_plain_png(data, max_pixels=63) is not None


def test_pngs_of_a_batch_are_those_of_single_images() -> None:
    how = Pixels(image_size=4, num_channels=1, mean=0.5, std=0.5)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0))
    rows = zlib.compress(b"\0\1\2\3\4")
    encoded_images: list[Any] = [
        encoded(noise(4, 4, mode="L")),
        png_of_chunks(header, chunk(b"IDAT", rows), END),  # Pillow takes a single row of four
        b"damaged",
        {"bytes": encoded(noise(4, 4, mode="L", seed=1)), "path": "a.png"},
        encoded(noise(9, 4, mode="L")),
        encoded(noise(4, 4, mode="RGB")),
        None,
        encoded(noise(4, 4, mode="L", seed=2))[:50],
        encoded(noise(4, 4, mode="L"), "BMP"),
    ]
    pixels, errors = batch_of(encoded_images, how=how)
    items = how.items_of(encoded_images)
    usable = [item["pixels"] for item in items if not isinstance(item, SampleError)]
    assert torch.equal(pixels, how.stack(usable))
    assert {k: str(error) for k, error in errors.items()} == {
        k: str(item) for k, item in enumerate(items) if isinstance(item, SampleError)
    }
    assert sorted(errors) == [2, 6, 7]


def test_a_grey_png_is_decoded_into_shared_memory() -> None:
    # Otherwise Pillow has changed, and every image is opened.
    image = noise(5, 3, mode="L")
    assert GreyPngs(5, 3).decode(encoded(image)) == image.tobytes()
