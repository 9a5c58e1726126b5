"""Strategy: the protocol of a selection strategy, and the values it works with."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.stats.elementwise import elementwise
from attent_select.stats.gumbel import NoisyLogit
from attent_select.stats.histogram import LossDistribution
from attent_select.stats.randomness import sample_uniform


@dataclass(frozen=True)
class Candidates:
    """What a strategy knows about the rows to choose from.

    Attributes:
        losses: distribution of the eligible losses; None unless the strategy needs it.
        stream: key of the random draws, different for each (seed, round).
        round_steps: optimizer steps at which the rounds so far began, ascending; the current round
            is the last.
    """

    losses: LossDistribution | None
    stream: int
    round_steps: tuple[int, ...] = ()

    @property
    def uniform(self) -> pl.Expr:
        """float64 in (0, 1], one draw per sample."""
        return sample_uniform(self.stream)

    def age(self, measured_step: pl.Expr) -> pl.Expr:
        """u32: the number of rounds that began after a step."""
        steps = np.array(self.round_steps, dtype=np.uint64)
        count = partial(_count_later_steps, steps=steps)
        return elementwise(count, measured_step.cast(pl.UInt64), dtype=pl.UInt32)


def _count_later_steps(measured: npt.NDArray[np.uint64], *, steps: npt.NDArray[np.uint64]) -> Any:
    return len(steps) - np.searchsorted(steps, measured, side="right")


@dataclass(frozen=True)
class Cutoff:
    """The edge of the selection, as float64 expressions: each stratum has its own values.

    Attributes:
        num_selected: samples (or units, if the budget is in units) that the strategy selects.
        num_eligible: samples (or units) of all eligible rows.
        first_excluded: largest key that was not selected.
    """

    num_selected: pl.Expr
    num_eligible: pl.Expr
    first_excluded: pl.Expr


# float64: the value of a strategy's SQL expression.
EXPRESSION: Final = "__expression"


@runtime_checkable
class ReadsExpression(Protocol):
    """A strategy that reads EXPRESSION instead of its columns; the engine computes it."""

    @property
    def expression(self) -> str:
        """SQL expression of one row; rows without a finite value are excluded."""
        ...


def expression_of(strategy: "Strategy") -> str | None:
    """Return the SQL expression that a strategy reads, or None."""
    return strategy.expression if isinstance(strategy, ReadsExpression) else None


def key_columns(strategy: "Strategy") -> tuple[str, ...]:
    """Return the columns of numbers that a strategy's key is computed from."""
    return strategy.columns if expression_of(strategy) is None else (EXPRESSION,)


class Strategy(Protocol):
    """A key per row; the rows with the largest keys are the teaching subset."""

    # Whether the key uses `Candidates.losses`, which costs one more pass over the catalog.
    needs_distribution: ClassVar[bool]

    @property
    def columns(self) -> tuple[str, ...]:
        """Catalog columns that the key reads; rows without a finite number in them are excluded."""
        ...

    def key(self, candidates: Candidates) -> pl.Expr:
        """float32 or float64 per row, never NaN or null: larger is selected first."""
        ...

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        """float64 per row: the probability that the row is selected."""
        ...


@runtime_checkable
class HasNoisyLogit(Protocol):
    """A strategy whose key is a logit of LOSS with Gumbel noise; it needs the distribution."""

    def noisy_logit(self, candidates: Candidates) -> NoisyLogit:
        """Return what the key of a row is computed from; makes the search faster."""
        ...
