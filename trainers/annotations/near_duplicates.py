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
        column: column with the content: text, chats, or encoded images.
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
        content = content_of(values, column=self.column)
        return Fitted(notes={"content": content, "hash": hash_version(content)})

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the hashes of each sample; samples that share one are linked."""
        bands, statuses = bands_of(samples[self.column], fitted.notes["content"])
        has_hash = pl.Series(statuses) == "ok"
        hashes = pl.DataFrame(bands, schema=list(self.links[: bands.shape[1]]), orient="row")
        rows = hashes.select(pl.when(has_hash).then(pl.all()))
        return Measured(rows.with_columns(value=pl.col(self.links[0]), status=pl.Series(statuses)))


def content_of(values: Sequence[Any], *, column: str, what: str = "") -> str:
    """Return whether values are texts or images.

    Raises:
        InputError: they are neither, or both; `what` names what has the column, as ` of the X`.
    """
    contents = {_content_of(value, f"{column!r}{what}") for value in values if value is not None}
    if len(contents) != 1:
        raise InputError(
            f"the column {column!r}{what} has {' and '.join(sorted(contents)) or 'no'} values:"
            " expected text or encoded images; name another with --set column=COLUMN"
        )
    return contents.pop()


def bands_of(values: Sequence[Any], content: str) -> tuple[Bands, list[str]]:
    """Return the bands of each value, zeros without content, and its status."""
    return _bands_of_texts(values) if content == _TEXT else _bands_of_images(values)


def hash_version(content: str) -> int:
    """Return the version of the hash, so that hashes of two versions are not compared."""
    if content == _IMAGE:
        return 1
    with missing_extras_named():
        from rensa import RMinHash
    return int(RMinHash.ALGORITHM_VERSION)


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
    if isinstance(value, str | list):
        return _TEXT
    if isinstance(value, bytes | Mapping):
        return _IMAGE
    raise InputError(
        f"the column {column} has values of type {type(value).__name__}, expected text or"
        " encoded images: name another with --set column=COLUMN"
    )
