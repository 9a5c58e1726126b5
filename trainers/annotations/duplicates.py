"""Duplicates: samples with the same content, by a hash of it.

The value is the same for all samples of a cluster: the sample key of its first one. `rank` is a
sample's position in its cluster and `size` the cluster's number of samples, so that `rank = 0`
keeps one sample of each. Of several columns, samples are duplicates if all of them are equal.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID, sample_key
from trainers.annotation import FitContext, Fitted, Measured, Samples
from trainers.inputs.text_batches import OK, texts_of

_SECOND_HALF: Final = "second_half"


@dataclass(frozen=True)
class Duplicates:
    """Settings of the kind.

    Attributes:
        column: column with the content, or several of them: text, chats, bytes or images. Beside
            others, a column may have any values, such as labels.
        normalise: compare text without regard to case and to the amount of white space.
    """

    column: str | tuple[str, ...] = "text"
    normalise: bool = True

    needs_target = False
    further_columns = ("rank", "size")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if isinstance(self.column, str) else self.column

    def fit(self, context: FitContext) -> Fitted:
        """Check that a column has content."""
        types: dict[str, None] = {}
        for batch in context.pool_sample(256):
            for value in (value for name in self.columns for value in batch[name]):
                if isinstance(value, str | bytes | list | Mapping):
                    return Fitted()
                types |= {} if value is None else {type(value).__name__: None}
        if types:
            names = ", ".join(map(repr, self.columns))
            raise InputError(
                f"the column {names} has values of type {', '.join(types)}, expected text, chats,"
                " bytes or images: name another with --set column=COLUMN"
            )
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the two halves of the hash of each sample's content."""
        rows_of_values = list(zip(*(samples[name] for name in self.columns), strict=True))
        digests = b"".join(map(self._digest, rows_of_values))
        halves = np.frombuffer(digests, "<i8").reshape(-1, 2)
        is_empty = [all(value is None for value in values) for values in rows_of_values]
        status = pl.Series(["empty" if empty else OK for empty in is_empty])
        rows = pl.DataFrame({"value": halves[:, 0], _SECOND_HALF: halves[:, 1], "status": status})
        has_content = pl.col("status") == OK
        return Measured(rows.with_columns(value=pl.when(has_content).then(pl.col("value"))))

    def resolve(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Number the samples of each cluster in the order of the corpus."""
        key = sample_key().cast(pl.Int64)
        ordered = rows.sort(SHARD_ID, ROW)
        known = ordered.filter(pl.col("value").is_not_null()).with_columns(
            key.min().over("value", _SECOND_HALF).alias("cluster"),
            pl.int_range(pl.len(), dtype=pl.UInt32).over("value", _SECOND_HALF).alias("rank"),
            pl.len().over("value", _SECOND_HALF).cast(pl.UInt32).alias("size"),
        )
        unknown = ordered.filter(pl.col("value").is_null())
        return pl.concat([known, unknown], how="diagonal").select(
            SHARD_ID, ROW, "status", "rank", "size", pl.col("cluster").cast(pl.Int64).alias("value")
        )

    def _digest(self, values: Sequence[Any]) -> bytes:
        contents = [_hash(self._content(value)) for value in values]
        return contents[0] if len(contents) == 1 else _hash(b"".join(contents))

    def _content(self, value: Any) -> bytes:
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            value = value["bytes"]
        if isinstance(value, bytes):
            return value
        if isinstance(value, list):
            (text,), (status,) = texts_of([value])
            value = text if status == OK else value
        if not isinstance(value, str):
            value = json.dumps(value, sort_keys=True, default=repr)
        text = " ".join(value.split()).casefold() if self.normalise else value
        return text.encode("utf-8", "surrogatepass")


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
