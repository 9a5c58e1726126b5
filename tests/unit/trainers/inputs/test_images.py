"""Images from untrusted bytes: decoded to one shape, or refused within limits."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from digits import png
from PIL import Image, ImageOps

from attent_select.errors import SampleError
from trainers.inputs import images
from trainers.inputs.images import decode_image, decode_map, open_image


def test_grey_and_colour_come_out_with_the_channels_that_were_asked_for() -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[..., 0] = 255
    red = decode_image(png(colours), num_channels=3, image_size=8)
    assert red.shape == (3, 8, 8)
    assert red.dtype == torch.uint8
    assert red.float().mean(dim=(1, 2)).tolist() == [255.0, 0.0, 0.0]
    grey = decode_image(png(colours), num_channels=1, image_size=8)
    assert grey.shape == (1, 8, 8)
    assert set(grey.flatten().tolist()) == {76}  # ITU-R 601 luma of red


def test_another_size_is_resized() -> None:
    image = decode_image(png(np.full((31, 17), 9, np.uint8)), num_channels=1, image_size=8)
    assert image.shape == (1, 8, 8)
    assert set(image.flatten().tolist()) == {9}


@pytest.mark.parametrize(("deep", "shallow"), [(0, 0), (30_000, 117), (65_535, 255)])
def test_grey_of_sixteen_bits_is_scaled_and_not_clipped(deep: int, shallow: int) -> None:
    data = png(np.full((8, 8), deep, np.uint16))
    for num_channels in (1, 3):
        image = decode_image(data, num_channels=num_channels, image_size=8)
        assert set(image.flatten().tolist()) == {shallow}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_the_allowed_formats_are_decoded(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(file, kind)
    image = decode_image(file.getvalue(), num_channels=1, image_size=8)
    assert image.float().mean() == pytest.approx(200, abs=3)


def test_bytes_in_the_hugging_face_layout_are_found() -> None:
    nested = {"bytes": png(np.zeros((8, 8), np.uint8)), "path": "a.png"}
    assert decode_image(nested, num_channels=1, image_size=8).shape == (1, 8, 8)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    # A header that promises 60,000 × 60,000 pixels, with nothing behind it.
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    bomb += struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4
    with pytest.raises(SampleError, match=r"pixels|DecompressionBomb") as caught:
        decode_image(bomb, num_channels=1, image_size=8)
    assert caught.value.status == "unreadable"


def test_an_image_just_over_the_limit_is_refused_by_our_own_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 8 * 8 - 1)
    with pytest.raises(SampleError, match="8 × 8 pixels exceed the limit of 63"):
        decode_image(png(np.zeros((8, 8), np.uint8)), num_channels=1, image_size=8)


def test_too_many_bytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_ENCODED_BYTES", 10)
    with pytest.raises(SampleError, match="encoded bytes exceed the limit of 10"):
        decode_image(png(np.zeros((8, 8), np.uint8)), num_channels=1, image_size=8)


def test_an_image_cut_anywhere_before_its_last_pixels_is_unreadable() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    whole = png(noise)
    for length in range(1, len(whole) - 64, 7):
        with pytest.raises(SampleError) as caught:
            decode_image(whole[:length], num_channels=3, image_size=8)
        assert caught.value.status == "unreadable"


@pytest.mark.parametrize("data", [b"", None, {"bytes": None}])
def test_no_bytes_are_an_empty_sample(data: object) -> None:
    with pytest.raises(SampleError) as caught:
        decode_image(data, num_channels=1, image_size=8)
    assert caught.value.status == "empty"


def test_a_format_that_is_not_allowed_is_unreadable() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "PPM")
    with pytest.raises(SampleError, match="not one of PNG, JPEG"):
        decode_image(file.getvalue(), num_channels=1, image_size=8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_as_its_orientation_says(kind: str, orientation: int) -> None:
    image = Image.new("RGB", (48, 32))
    image.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(image, kind, exif=exif)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L")
    opened = open_image(data, num_channels=1)
    assert opened.size == shown.size
    assert np.array_equal(np.asarray(opened), np.asarray(shown))


def test_a_map_drawn_on_the_upright_image_fits_and_is_not_rotated() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    data = encoded(Image.new("RGB", (48, 32)), "JPEG", exif=exif)
    drawn = np.arange(48 * 32, dtype=np.uint16).reshape(48, 32)
    numbers = decode_map(png(drawn))
    assert np.array_equal(numbers.numpy(), drawn)
    assert open_image(data, num_channels=3).size[::-1] == tuple(numbers.shape)


def grey_png(pixels: np.ndarray, bits: int) -> bytes:
    """A PNG of one grey channel, written from the specification: Pillow writes 1 and 8 bits."""
    height, width = pixels.shape
    wide = np.unpackbits(pixels.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=-1)
    rows = np.packbits(wide[..., 16 - bits :].reshape(height, -1), axis=-1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_maps_of_any_depth_are_the_stored_numbers(bits: int) -> None:
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    assert np.array_equal(decode_map(grey_png(pixels, bits)).numpy(), pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("colours", [2, 4, 16, 256])
def test_palettes_are_the_stored_numbers(kind: str, colours: int) -> None:
    pixels = (np.arange(256) % colours).astype(np.uint8).reshape(16, 16)
    image = Image.fromarray(pixels).convert("P")
    image.putpalette(np.random.default_rng(1).integers(1, 256, 768).astype(np.uint8).tobytes())
    assert np.array_equal(decode_map(encoded(image, kind)).numpy(), pixels)


@pytest.mark.parametrize("largest", [1, 255, 65_535])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_maps_are_the_stored_numbers(largest: int, *, white_is_zero: bool) -> None:
    kind = {1: bool, 255: np.uint8, 65_535: np.uint16}[largest]
    stored = np.random.default_rng(1).integers(0, largest + 1, (8, 8))
    # Pillow takes and shows the inverse of what it stores where 0 means white.
    is_inverted = white_is_zero and largest < 65_535
    shown = (largest - stored if is_inverted else stored).astype(kind)
    tags = {262: 0} if is_inverted else {}
    data = encoded(Image.fromarray(shown), "TIFF", tiffinfo=tags)
    assert np.array_equal(decode_map(data).numpy(), stored)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 4))
    data = encoded(image.quantize() if mode == "PA" else image.convert(mode), "PNG")
    pixels = decode_image(data, num_channels=3, image_size=8)
    assert set(pixels[:, 4:].flatten().tolist()) == {255}
    assert set(pixels[1, :4].flatten().tolist()) <= {0, 76}


def test_cmyk_is_converted() -> None:
    data = encoded(Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95)
    means = decode_image(data, num_channels=3, image_size=8).float().mean(dim=(1, 2)).tolist()
    assert means == pytest.approx([200, 30, 60], abs=6)


def test_a_path_without_bytes_says_so() -> None:
    with pytest.raises(SampleError, match=r"only a path, 'cats/1\.png'"):
        decode_image({"bytes": None, "path": "cats/1.png"}, num_channels=3, image_size=8)
