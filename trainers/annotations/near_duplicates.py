"""Near duplicates: texts that share most of their phrases, images that look the same.

Samples that share a hash (`trainers/inputs/near_hashes.py`) are linked, and so are those that are
linked with the same sample. The value is the same for all samples of such a cluster: the sample key
of its first one. `rank` is a sample's position in its cluster and `size` the cluster's number of
samples, as for exact duplicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select.errors import InputError, SampleError
from attent_select.extras import missing_extras_named
from trainers.annotation import FitContext, Fitted, Measured, Samples
from trainers.inputs.near_hashes import (
    IMAGE_BANDS,
    TEXT_BANDS,
    Bands,
    image_bands,
    text_bands,
)
from trainers.inputs.text_batches import small_batches, texts_of

_TEXT: Final = "text"
_IMAGE: Final = "image"


@dataclass(frozen=True)
class NearDuplicates:
    """Settings of the kind.

    Attributes:
        column: column with the content: text, or encoded images.
    """

    column: str = "text"

    needs_target = False
    further_columns = ("rank", "size")
    links = tuple(f"link_{band}" for band in range(max(TEXT_BANDS, IMAGE_BANDS)))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def fit(self, context: FitContext) -> Fitted:
        """Decide between texts and images by a few random samples."""
        values = [v for batch in context.pool_sample(256) for v in batch[self.column]]
        kinds = {_content_of(value, self.column) for value in values if value is not None}
        if len(kinds) != 1:
            raise InputError(
                f"the column {self.column!r} has {' and '.join(sorted(kinds)) or 'no'} values:"
                " expected text or encoded images; name another with --set column=COLUMN"
            )
        (content,) = kinds
        return Fitted(notes={"content": content, "hash": _version(content)})

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the hashes of each sample; samples that share one are linked."""
        values = samples[self.column]
        if fitted.notes["content"] == _TEXT:
            bands, statuses = _bands_of_texts(values)
        else:
            bands, statuses = _bands_of_images(values)
        has_hash = pl.Series(statuses) == "ok"
        hashes = pl.DataFrame(bands, schema=list(self.links[: bands.shape[1]]), orient="row")
        rows = hashes.select(pl.when(has_hash).then(pl.all()))
        return Measured(rows.with_columns(value=pl.col(self.links[0]), status=pl.Series(statuses)))


def _bands_of_texts(values: Sequence[Any]) -> tuple[Bands, list[str]]:
    texts, statuses = texts_of(values)
    hashed = [text_bands(batch) for batch in small_batches(texts)]
    has_words = np.concatenate([words for _, words in hashed]).tolist()
    pairs = zip(statuses, has_words, strict=True)
    statuses = ["empty" if status == "ok" and not words else status for status, words in pairs]
    return np.concatenate([bands for bands, _ in hashed]), statuses


def _bands_of_images(values: Sequence[Any]) -> tuple[Bands, list[str]]:
    with missing_extras_named():
        from trainers.inputs.images import open_image

    bands, statuses = np.zeros((len(values), IMAGE_BANDS), np.int64), []
    for number, value in enumerate(values):
        try:
            bands[number] = image_bands(open_image(value, num_channels=1))
            statuses.append("ok")
        except SampleError as error:
            statuses.append(error.status)
    return bands, statuses


def _content_of(value: Any, column: str) -> str:
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, bytes | Mapping):
        return _IMAGE
    raise InputError(
        f"the column {column!r} has values of type {type(value).__name__}, expected text or"
        " encoded images: name another with --set column=COLUMN"
    )


def _version(content: str) -> int:
    """Return the version of the hash, so that hashes of two versions are not compared."""
    if content == _IMAGE:
        return 1
    with missing_extras_named():
        from rensa import RMinHash
    return int(RMinHash.ALGORITHM_VERSION)
