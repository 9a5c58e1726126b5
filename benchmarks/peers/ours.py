"""attent-select's stream as a method of the benchmark.

Its batches are those of the other methods, over Parquet and tars with default settings. Images are
decoded as the tasks of this project decode them, or with Pillow as the other methods do ("ours,
Pillow"). Only this method shuffles.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from samples import MEMBERS, collate, decode

from catalogs import Corpus, IndexFile
from trainers import OrderSettings, TeachingStream
from trainers.inputs.decoding.image_batches import decode_batch
from trainers.inputs.pixels import Pixels

FORMATS = {"ours": "parquet", "ours, Pillow": "parquet", "ours, tars": "tar"}
# Side of the images.
SIDE = 28
_streams: list[TeachingStream] = []


@dataclass(frozen=True)
class Decoded:
    """A task whose batches are those of `samples.batches`."""

    columns: tuple[str, ...]
    is_tar: bool

    draws = False

    def prepare(self, sample: Any, *, generator: Any) -> dict[str, Any]:
        if self.is_tar:
            sample = {MEMBERS[name]: value for name, value in sample.items()}
        return {"array": decode(sample), "label": int(sample.get("label", 0))}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        arrays, labels = collate([i["array"] for i in items], [i["label"] for i in items])
        return {"array": arrays, "labels": labels}

    def models(self, settings: dict[str, Any]) -> Any:
        raise NotImplementedError  # no training here

    def per_sample_loss(self, model: Any, batch: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, model: Any, batches: Iterable[Any]) -> dict[str, float]:
        raise NotImplementedError


@dataclass(frozen=True)
class DecodedColumns(Decoded):
    """The same from columns; images by the decoders of this project."""

    pixels = Pixels(image_size=SIDE, num_channels=1, mean=0.0, std=1.0)

    def collate_columns(self, columns: Any) -> tuple[dict[str, torch.Tensor], dict[int, Any]]:
        if text := columns.keys() & {"text", "txt"}:
            texts = columns[text.pop()]
            arrays, labels = collate([decode({"text": each}) for each in texts], [0] * len(texts))
            return {"array": arrays, "labels": labels}, {}
        image, label = ("png", "cls") if self.is_tar else ("image", "label")
        errors: dict[int, Any] = {}
        arrays = decode_batch(columns[image], how=self.pixels, errors=errors)
        return {"array": arrays[:, 0], "labels": torch.tensor(columns[label])}, errors


def load(method: str) -> None:  # noqa: ARG001
    """Import what pyarrow imports at its first array: pandas, where it is installed."""
    pa.array([0])


def extra() -> dict[str, float]:
    """Counts of the stream, including samples read ahead but not delivered."""
    return {"read_amplification": round(_streams[-1].stats.read_amplification, 3)}


def stream(request: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    place = "s3" if request.url.startswith("s3://") else "local"
    corpus = Corpus.open(f"{request.url}/{place}-{FORMATS[request.method]}")
    index = IndexFile.open(request.index.replace(".npz", ".parquet"))
    kind = Decoded if request.method == "ours, Pillow" else DecodedColumns
    taught = TeachingStream(
        index,
        corpus,
        kind(corpus.columns, is_tar=FORMATS[request.method] == "tar"),
        order=OrderSettings(seed=0, batch_size=request.batch_size),
    )
    _streams.append(taught)
    for batch in taught:
        yield batch["array"], batch["labels"]
