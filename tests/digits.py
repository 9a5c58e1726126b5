"""scikit-learn's digits as samples, corpora and indexes; the small models that learn them."""

import io
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from attent_select import plugins
from catalogs import storage
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.shards import inspect_shard
from trainers import OrderSettings, RankShare, TeachingStream
from trainers.settings import StreamingSettings
from trainers.tasks.image_classification import ImageClassification

TASK = ImageClassification(image_size=8, num_channels=1)

# Dropout, so that a wrong random state shows.
VIT: dict[str, Any] = {
    "config": {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "num_labels": 10,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
}


def png(pixels: np.ndarray) -> bytes:
    """An encoded image of uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@lru_cache(maxsize=1)
def _all_samples() -> list[dict[str, Any]]:
    images, labels = load_digits(return_X_y=True)
    return [
        {"image": png((pixels.reshape(8, 8) * 15).astype(np.uint8)), "label": int(label)}
        for pixels, label in zip(images, labels, strict=True)
    ]


def samples(number: int) -> list[dict[str, Any]]:
    """The first digits, as new dicts."""
    return [dict(sample) for sample in _all_samples()[:number]]


def write_corpus(
    folder: Path, rows: Sequence[dict[str, Any]], *, num_shards: int = 3, kind: str = "parquet"
) -> Corpus:
    """A corpus of `rows` in about equal shards under `folder`."""
    if kind == "lance":
        pytest.importorskip("lance.file", reason="pylance is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, part in enumerate(np.array_split(np.arange(len(rows)), num_shards)):
        path = folder / f"{number:03d}.{'tar' if kind == 'webdataset' else kind}"
        plugins.load_plugin("catalogs.formats", kind)().write(path, [rows[row] for row in part])
        stored = storage.info(str(path))
        assert stored is not None
        found.append((stored, kind, inspect_shard(str(path), kind)))
    return Corpus.from_inspections(found)


def stream_of(
    index: IndexFile, corpus: Corpus, task: Any = TASK, **settings: Any
) -> TeachingStream:
    """A stream of seed 3 and batches of 8; each setting goes to the dataclass that has it."""
    settings = {"seed": 3, "batch_size": 8} | settings

    def taken(kind: type[Any]) -> Any:
        names = {field.name for field in fields(kind)} & settings.keys()
        return kind(**{name: settings.pop(name) for name in names})

    order, share, streaming = map(taken, (OrderSettings, RankShare, StreamingSettings))
    return TeachingStream(
        index, corpus, task, order=order, share=share, settings=streaming, **settings
    )


def write_index(
    path: Path, corpus: Corpus, *, every: int = 1, weights: pl.Expr | None = None
) -> IndexFile:
    """An index of every `every`-th row of `corpus`."""
    rows = corpus.rows().filter(pl.col("row") % every == 0)
    weight = (pl.lit(1.0) if weights is None else weights).cast(pl.Float32)
    return IndexFile.write(
        str(path),
        rows.with_columns(weight=weight, probability=pl.lit(1.0, pl.Float32)),
        provenance={"corpus_id": corpus.corpus_id},
    )
