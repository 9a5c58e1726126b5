"""Decoder and collator that all methods of benchmarks/streaming.py share.

Methods differ only in how they read. Runs in every environment (numpy, Pillow and torch).
"""

import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

TEXT_BYTES = 256
# The columns of a sample, by kind of corpus.
COLUMNS = {"images": ("image", "label"), "text": ("text",)}
# The extensions of a tar's members are its columns.
MEMBERS = {"png": "image", "cls": "label", "txt": "text"}


def decode(sample: dict[str, Any]) -> np.ndarray:
    """uint8[28, 28] of an encoded image, or the first 256 bytes of a text, padded with zeros."""
    if "image" in sample:
        return np.asarray(Image.open(io.BytesIO(sample["image"])))
    encoded = np.zeros(TEXT_BYTES, np.uint8)
    text = sample["text"].encode()[:TEXT_BYTES]
    encoded[: len(text)] = np.frombuffer(text, np.uint8)
    return encoded


def collate(arrays: list[np.ndarray], labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.stack(arrays)), torch.tensor(labels)


def batches(
    samples: Iterable[dict[str, Any]], batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decoded batches of samples in their order; the last one may be short."""
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    for sample in samples:
        arrays.append(decode(sample))
        labels.append(int(sample.get("label", 0)))
        if len(arrays) == batch_size:
            yield collate(arrays, labels)
            arrays, labels = [], []
    if arrays:
        yield collate(arrays, labels)
