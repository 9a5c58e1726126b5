"""JPEGs: the pixels and refusals of Pillow, with simplejpeg and without it; scaled decoding."""

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from attent_select.errors import InputError, SampleError
from pipeline.config.canonical_json import canonical_json
from trainers.inputs.augmentation import Augmentation
from trainers.inputs.augmentation.settings import RandomResizedCrop
from trainers.inputs.decoding import jpeg
from trainers.inputs.images import open_image, open_pixels
from trainers.inputs.pixels import Pixels
from trainers.tasks.diffusion import Diffusion
from trainers.tasks.image_classification import ImageClassification

PIXELS = Pixels(image_size=24, num_channels=3, mean=0.5, std=0.5)


def photo(width: int, height: int, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth + rng.normal(0, 8, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def pillow_pixels(data: bytes, mode: str) -> np.ndarray | None:
    """The pixels, or None where Pillow refuses the file."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert(mode))
    except Exception:  # noqa: BLE001  (Pillow raises almost any exception for damaged bytes)
        return None


def our_pixels(data: bytes, mode: str) -> list[np.ndarray | None]:
    """The pixels as a Pillow image and as a tensor."""
    try:
        image = open_image(data, num_channels=len(mode))
    except SampleError:
        with pytest.raises(SampleError):
            open_pixels(data, num_channels=len(mode))
        return [None, None]
    pixels = open_pixels(data, num_channels=len(mode)).permute(1, 2, 0).numpy()
    return [np.asarray(image), pixels[..., 0] if mode == "L" else pixels]


def assert_same(data: bytes, mode: str) -> None:
    expected = pillow_pixels(data, mode)
    for pixels in our_pixels(data, mode):
        assert (pixels is None) == (expected is None)
        assert expected is None or np.array_equal(pixels, expected)


MODES = st.sampled_from(["L", "RGB"])


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    target=MODES,
    quality=st.integers(5, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    orientation=st.sampled_from([None, 1, 3, 6, 8]),
)
def test_jpegs_have_the_pixels_of_pillow(
    size: tuple[int, int],
    mode: str,
    target: str,
    quality: int,
    subsampling: str,
    progressive: bool,  # noqa: FBT001
    orientation: int | None,
) -> None:
    options: dict[str, Any] = {} if mode == "L" else {"subsampling": subsampling}
    if orientation is not None:
        exif = Image.Exif()
        exif[0x112] = orientation
        options["exif"] = exif.tobytes()
    image = photo(*size, mode=mode)
    assert_same(encoded(image, quality=quality, progressive=progressive, **options), target)


@given(
    target=MODES,
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
)
def test_damaged_jpegs_are_refused_where_pillow_refuses_them(
    target: str, cut: float, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(encoded(photo(20, 17)))
    for place, change in flips:
        data[int(place * len(data))] ^= change
    assert_same(bytes(data if flips else data[: round(cut * len(data))]), target)


def test_the_header_is_checked_before_the_memory_is_allocated() -> None:
    data = bytearray(encoded(photo(20, 17)))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 9000, 9000)
    for decode in (open_image, open_pixels):
        with pytest.raises(SampleError, match="9000 × 9000 pixels exceed the limit"):
            decode(bytes(data), num_channels=3)


@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    least=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    mode=MODES,
)
def test_scaled_jpegs_have_the_pixels_of_pillow_and_are_not_too_small(
    size: tuple[int, int], least: tuple[int, int], mode: str
) -> None:
    data = encoded(photo(*size, mode=mode))
    with Image.open(io.BytesIO(data)) as image:
        image.draft(None, least)
        expected = np.asarray(image.convert(mode))
    scaled = open_image(data, num_channels=len(mode), least_size=lambda _: least)
    assert np.array_equal(np.asarray(scaled), expected)
    pixels = open_pixels(data, num_channels=len(mode), least_size=lambda _: least)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy().reshape(expected.shape), expected)
    assert all(map(lambda now, full, low: now >= min(full, low), scaled.size, size, least))


@pytest.mark.skipif(jpeg.simplejpeg is None, reason="the extra decoders is not installed")
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_simplejpeg_decodes_what_is_usual(mode: str) -> None:
    data = encoded(photo(64, 48, mode=mode))
    with Image.open(io.BytesIO(data)) as image:
        assert jpeg.decode_jpeg(data, image, full_size=image.size) is not None


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(90, 70), (24, 24), (20, 31)])
def test_torch_resizes_as_pillow_does_within_one(how: Any, size: tuple[int, int]) -> None:
    data = encoded(photo(*size))
    first, second = (
        pixels.prepare([pixels.open(data)])[0][0]
        for pixels in (replace(PIXELS, resize=how), replace(PIXELS, resize=how, resampling="torch"))
    )
    assert first.shape == second.shape == (3, 24, 24)
    assert int((first.int() - second.int()).abs().max()) <= 1


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
def test_scaled_decoding_changes_pixels_and_keeps_the_image(how: Any) -> None:
    data = encoded(photo(160, 120))
    exact, scaled = (
        pixels.prepare([pixels.open(data)])[0][0]
        for pixels in (replace(PIXELS, resize=how), replace(PIXELS, resize=how, decode="scaled"))
    )
    assert not torch.equal(exact, scaled)
    assert float((exact.float() - scaled.float()).abs().mean()) < 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decode": "fast"}, "expected exact or scaled"),
        ({"resampling": "numpy"}, "expected pillow or torch"),
        ({"pixel_dtype": "int8"}, "expected float32 or uint8"),
        ({"pixel_dtype": "uint8", "processor": "folder"}, "pixel_dtype: the processor"),
        ({"decode": "scaled", "processor": "folder"}, "the processor resizes and normalises"),
        (
            {"decode": "scaled", "augment": Augmentation(random_resized_crop=RandomResizedCrop())},
            "parts of the full size",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(PIXELS, **settings)


@pytest.mark.parametrize("kind", [ImageClassification, Diffusion])
def test_settings_of_decoding_are_in_the_digest_where_they_change_pixels(kind: Any) -> None:
    assert "decode" not in canonical_json({"task": kind()})
    assert "resampling" not in canonical_json({"task": kind()})
    assert '"decode": "scaled"' in canonical_json({"task": kind(decode="scaled")})
    assert '"resampling": "torch"' in canonical_json({"task": kind(resampling="torch")})
