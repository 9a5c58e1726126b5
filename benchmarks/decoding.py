"""Processor time from encoded images to a training batch, in turns, against plain Pillow.

    python benchmarks/decoding.py --images fashion_mnist_train.parquet

Every method makes the same batches on one thread: `pixel_values` of the task, float32 unless it
says uint8, or of Pillow, numpy and the same normalisation. Figures are medians over the turns.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import machine
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from trainers.inputs.decoding import jpeg
from trainers.inputs.pixels import Pixels
from trainers.tasks.image_classification import ImageClassification

RESULTS = Path(__file__).parent / "results"
Method = Callable[[Sequence[bytes]], torch.Tensor]


def photos(number: int, *, width: int = 640, height: int = 480) -> list[bytes]:
    """JPEGs of smooth random colours with a little noise, of qualities from 75 to 95."""
    rng = np.random.default_rng(0)
    encoded = []
    for k in range(number):
        coarse = rng.normal(128, 40, (height // 16, width // 16, 3)).clip(0, 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 6, (height, width, 3))
        file = io.BytesIO()
        pixels = noisy.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=75 + 5 * (k % 5))
        encoded.append(file.getvalue())
    return encoded


def by_pillow(images: Sequence[bytes], *, side: int, mode: str) -> torch.Tensor:
    """A batch as users of `datasets` write it."""
    arrays = []
    for data in images:
        image = Image.open(io.BytesIO(data)).convert(mode)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image))
    batch = torch.from_numpy(np.stack(arrays)).view(len(images), side, side, len(mode))
    pixels = batch.permute(0, 3, 1, 2).contiguous().to(torch.float32)
    return pixels.div_(255.0).sub_(0.5).div_(0.5)


def by_items(images: Sequence[bytes], *, task: Any) -> torch.Tensor:
    samples = [{"image": data, "label": 0} for data in images]
    items = [task.prepare(sample, generator=None) for sample in samples]
    return torch.as_tensor(task.collate(items)["pixel_values"])


def by_columns(images: Sequence[bytes], *, task: Any) -> torch.Tensor:
    batch, _ = task.collate_columns({"image": images, "label": [0] * len(images)})
    return torch.as_tensor(batch["pixel_values"])


def with_pillow_only(method: Method) -> Method:
    """The method without simplejpeg."""

    def call(images: Sequence[bytes]) -> torch.Tensor:
        library, jpeg.simplejpeg = jpeg.simplejpeg, None
        try:
            return method(images)
        finally:
            jpeg.simplejpeg = library

    return call


def methods(side: int, mode: str, settings: Sequence[dict[str, str]]) -> dict[str, Method]:
    chosen: dict[str, Method] = {"Pillow": lambda x: by_pillow(x, side=side, mode=mode)}
    for changed in settings:
        task: Any = ImageClassification(image_size=side, num_channels=len(mode), **changed)
        name = ", ".join(f"{key}: {value}" for key, value in changed.items()) or "defaults"
        chosen[f"{name}; items"] = lambda x, task=task: by_items(x, task=task)
        chosen[f"{name}; columns"] = lambda x, task=task: by_columns(x, task=task)
        if "resampling" in changed:
            chosen[f"{name}; columns, without simplejpeg"] = with_pillow_only(
                chosen[f"{name}; columns"]
            )
    return chosen


def _normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Return the values that the model sees, which uint8 batches become on its device."""
    return Pixels(1, 1, mean=0.5, std=0.5).for_model(pixels)


def measure(
    images: Sequence[bytes], chosen: dict[str, Method], *, repeats: int
) -> list[dict[str, Any]]:
    """Microseconds of processor time an image, with the largest difference from Pillow's pixels."""
    expected = chosen["Pillow"](images)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, method in chosen.items():
            start = time.process_time()
            method(images)
            times[name].append((time.process_time() - start) / len(images))
    peer = median(times["Pillow"])
    return [
        {
            "method": name,
            "us_per_image": round(1e6 * median(each), 1),
            "times_pillow": round(peer / median(each), 2),
            "largest_difference": round(
                float((_normalise(chosen[name](images)) - expected).abs().max()) * 127.5
            ),
        }
        for name, each in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="Parquet with image (PNG)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    column = pq.read_table(options.images, columns=["image"]).slice(0, 256)["image"].to_pylist()
    small = [value["bytes"] if isinstance(value, dict) else value for value in column]
    quick = [
        {},
        {"decode": "scaled"},
        {"resampling": "torch"},
        {"decode": "scaled", "resampling": "torch"},
        {"decode": "scaled", "resampling": "torch", "pixel_dtype": "uint8"},
    ]
    report = {
        "machine": machine.describe(),
        "simplejpeg": getattr(jpeg.simplejpeg, "__version__", None),
        "png 28 x 28": measure(
            small, methods(28, "L", [{}, {"pixel_dtype": "uint8"}]), repeats=options.repeats
        ),
        "jpeg 640 x 480 to 224": measure(
            photos(10), methods(224, "RGB", quick), repeats=options.repeats
        ),
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "decoding.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
