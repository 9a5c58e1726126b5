"""A kind of annotation whose values say nothing about the text, for tests of extensions."""

import zlib
from dataclasses import dataclass

import polars as pl

from trainers.annotation import FitContext, Fitted, Measured, Samples


@dataclass(frozen=True)
class Noisy:
    """A checksum of `text`."""

    needs_target = False
    columns = ("text",)
    further_columns = ()

    def fit(self, context: FitContext) -> Fitted:
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        values = [float(zlib.crc32(text.encode())) for text in samples["text"]]
        rows = {"value": pl.Series(values, dtype=pl.Float32), "status": ["ok"] * len(values)}
        return Measured(pl.DataFrame(rows))
