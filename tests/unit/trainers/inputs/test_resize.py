"""Images of any shape become square: stretched, cropped or padded, and maps beside them alike."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from digits import png
from PIL import Image, ImageOps

from pipeline.config.canonical_json import canonical_json
from trainers.tasks.dense_regression import DenseRegression
from trainers.tasks.diffusion import Diffusion
from trainers.tasks.image_classification import ImageClassification
from trainers.tasks.masked_image_modeling import MaskedImageModeling
from trainers.tasks.semantic_segmentation import SemanticSegmentation

RANDOM = np.random.default_rng(5)
SHAPES = [(30, 20), (20, 30), (8, 64), (16, 16), (7, 5)]


def reference(pixels: np.ndarray, how: str, method: Any, fill: int = 0) -> np.ndarray:
    """The pixels in a square of 16, by Pillow and numpy."""
    height, width = pixels.shape[:2]
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if how == "pad":
        colour = fill if pixels.ndim == 2 else (fill,) * 3
        padded = ImageOps.pad(Image.fromarray(pixels), (16, 16), method, color=colour)
        return np.asarray(padded)
    return np.asarray(Image.fromarray(pixels).resize((16, 16), method))


@pytest.mark.parametrize("how", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_and_maps_are_those_of_pillow(how: Any, shape: tuple[int, int]) -> None:
    colours = RANDOM.integers(0, 256, (*shape, 3)).astype(np.uint8)
    mask = RANDOM.integers(0, 4, shape).astype(np.uint8)
    expected = reference(colours, how, Image.Resampling.BILINEAR).transpose(2, 0, 1)
    classes = reference(mask, how, Image.Resampling.NEAREST, fill=255).astype(int)
    labels = np.where(classes == 255, -100, classes)
    sample = {"image": png(colours), "mask": png(mask), "target": png(mask), "label": 1}
    item = SemanticSegmentation(image_size=16, resize=how).prepare(sample, generator=None)
    assert np.array_equal(item["pixels"], expected)
    assert np.array_equal(item["labels"], labels)
    depths = DenseRegression(image_size=16, resize=how).prepare(sample, generator=None)
    assert np.array_equal(depths["pixels"], expected)
    assert np.array_equal(depths["targets"].nan_to_num(-100), labels)
    for task in (ImageClassification, MaskedImageModeling, Diffusion):
        pixels = task(image_size=16, resize=how).prepare(sample, generator=None)["pixels"]
        assert np.array_equal(pixels, expected)
    (scored,) = ImageClassification(image_size=16, resize=how).prepare_inputs([sample])
    assert isinstance(scored, dict)
    assert np.array_equal(scored["pixels"], expected)


@pytest.mark.parametrize("how", ["crop", "pad"])
def test_a_rotated_photo_is_upright_before_it_is_cropped_or_padded(how: Any) -> None:
    colours = RANDOM.integers(0, 256, (30, 20, 3)).astype(np.uint8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(np.rot90(colours).copy()).save(file, "PNG", exif=exif)
    task = ImageClassification(image_size=16, resize=how)
    turned, upright = (
        task.prepare({"image": data, "label": 0}, generator=None)["pixels"]
        for data in (file.getvalue(), png(colours))
    )
    assert torch.equal(turned, upright)


@pytest.mark.parametrize("kind", [ImageClassification, SemanticSegmentation, Diffusion])
def test_the_new_settings_leave_digests_as_they_were(kind: Any) -> None:
    assert "resize" not in canonical_json({"task": kind()})
    assert "transform" not in canonical_json({"task": kind()})
    assert '"augment": false' in canonical_json({"task": kind()})
    assert '"resize": "pad"' in canonical_json({"task": kind(resize="pad")})
