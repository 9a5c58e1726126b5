"""Images from untrusted bytes: decoded to one shape, or refused within limits."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from digits import png
from PIL import Image

from attent_select.errors import SampleError
from trainers.inputs import images
from trainers.inputs.images import decode_image


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


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP"])
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
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "TIFF")
    with pytest.raises(SampleError, match="not one of PNG, JPEG"):
        decode_image(file.getvalue(), num_channels=1, image_size=8)
