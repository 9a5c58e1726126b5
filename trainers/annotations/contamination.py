"""Contamination: samples of the corpus that are among the examples of a target, by content.

A model that trains on them is judged by what it has seen. The value is true for such a sample, so
that `not contamination` excludes it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from attent_select.errors import InputError
from trainers.annotation import Examples, FitContext, Fitted, Measured, Samples
from trainers.annotations.duplicates import Duplicates

_HASHES: Final = "hashes"


@dataclass(frozen=True)
class Contamination:
    """Settings of the kind.

    Attributes:
        column: column with the content: text or bytes.
        normalise: compare text without regard to case and to the amount of white space.
    """

    column: str = "text"
    normalise: bool = True

    needs_target = True
    further_columns = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def fit(self, context: FitContext) -> Fitted:
        """Hash the examples of both halves of the target."""
        if context.target is None:
            raise InputError("the kind contamination compares with a target: give --target URL…")
        self._content.fit(context)
        hashes = [self._hashes(half) for half in (context.target, context.judging) if half]
        return Fitted({_HASHES: np.unique(np.concatenate(hashes))})

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return whether each sample is among the examples; null without content."""
        rows = self._content.measure(samples, fitted).rows
        known = pl.Series(fitted.arrays[_HASHES])
        return Measured(rows.select(pl.col("value").is_in(known.implode()), "status"))

    def _hashes(self, examples: Examples) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        rows = self._content.measure(examples.samples, Fitted()).rows
        return rows["value"].drop_nulls().to_numpy()

    @property
    def _content(self) -> Duplicates:
        return Duplicates(self.column, self.normalise)
