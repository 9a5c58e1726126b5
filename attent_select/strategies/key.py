"""key: the largest values of any SQL expression over annotations, losses and metadata."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS
from attent_select.sql_expression import columns_of
from attent_select.stats.gumbel import Floats, NoisyLogit
from attent_select.strategy import EXPRESSION, Candidates, Cutoff


@dataclass(frozen=True)
class Key:
    """key = the expression, largest first; with Gumbel noise g, key = expression/τ + g.

    Rows for which the expression is null, NaN or infinite are not eligible. Rows with equal values
    are taken in the order of the corpus.

    Attributes:
        expression: SQL expression of one row, such as `relevance` or `loss - reference_loss`; the
            key `key` of a configuration.
        noise: `none` (the top share), or `gumbel` (importance resampling: a draw without
            replacement with weights exp(expression/τ)).
        temperature: τ > 0, for `gumbel`.

    Source of the resampling: Xie et al., "Data Selection for Language Models via Importance
    Resampling" (DSIR), NeurIPS 2023, where the expression is the log importance weight and τ = 1.
    """

    expression: str = LOSS
    noise: Literal["none", "gumbel"] = "none"
    temperature: float = 1.0

    needs_distribution: ClassVar[bool] = False

    def __post_init__(self) -> None:
        columns_of(self.expression, what="key")
        if self.noise not in ("none", "gumbel"):
            raise InputError(f"noise: {self.noise!r}; expected none or gumbel")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature: {self.temperature} is not a finite positive number")

    @property
    def columns(self) -> tuple[str, ...]:
        return columns_of(self.expression, what="key")

    def key(self, candidates: Candidates) -> pl.Expr:
        value = pl.col(EXPRESSION)
        if self.noise == "none":
            return value
        return self._noisy_logit(candidates).key(value)

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        if self.noise == "none":
            return pl.lit(1.0)
        noisy = self._noisy_logit(candidates)
        return noisy.probability_above(cutoff.first_excluded, pl.col(EXPRESSION))

    def _noisy_logit(self, candidates: Candidates) -> NoisyLogit:
        return NoisyLogit(partial(_scale, temperature=self.temperature), candidates.stream)


def _scale(value: npt.NDArray[Any], *, temperature: float) -> Floats:
    return value.astype(np.float64) / temperature
