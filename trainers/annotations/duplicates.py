"""Duplicates: samples with the same content, by a hash of it.

The value is the same for all samples of a cluster: the sample key of its first one. `rank` is a
sample's position in its cluster and `size` the cluster's number of samples, so that `rank = 0`
keeps one sample of each.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import ROW, SHARD_ID, sample_key
from trainers.annotation import FitContext, Fitted, Measured, Samples

_SECOND_HALF: Final = "second_half"


@dataclass(frozen=True)
class Duplicates:
    """Settings of the kind.

    Attributes:
        column: column with the content: text or bytes.
        normalise: compare text without regard to case and to the amount of white space.
    """

    column: str = "text"
    normalise: bool = True

    needs_target = False
    further_columns = ("rank", "size")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def fit(self, context: FitContext) -> Fitted:
        """Check the column."""
        for batch in context.pool_sample(256):
            for value in batch[self.column]:
                if value is not None and not isinstance(value, str | bytes):
                    raise InputError(
                        f"the column {self.column!r} has values of type {type(value).__name__},"
                        " expected text or bytes: name another with --set column=COLUMN"
                    )
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return the two halves of the hash of each sample's content."""
        values = samples[self.column]
        digests = b"".join(self._digest(value) for value in values)
        halves = np.frombuffer(digests, "<i8").reshape(-1, 2)
        status = pl.Series(["empty" if value is None else "ok" for value in values])
        rows = pl.DataFrame({"value": halves[:, 0], _SECOND_HALF: halves[:, 1], "status": status})
        has_content = pl.col("status") == "ok"
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

    def _digest(self, value: Any) -> bytes:
        content = (
            value
            if isinstance(value, bytes)
            else self._text(value).encode("utf-8", "surrogatepass")
        )
        return hashlib.blake2b(content, digest_size=16).digest()

    def _text(self, value: Any) -> str:
        text = str(value)
        return " ".join(text.split()).casefold() if self.normalise else text
