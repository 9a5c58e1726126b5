"""What a selection strategy must do, and what it is given to do it with.

The protocol and its values.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.stats.elementwise import elementwise
from attent_select.stats.histogram import LossDistribution
from attent_select.stats.randomness import sample_uniform


@dataclass(frozen=True)
class Candidates:
    """The rows to choose from: how their losses lie, and one random number for each.

    `losses` is None unless the strategy needs their distribution. `stream` is the key of the random
    draws, its own per (seed, round). `round_steps` are the optimizer steps at which the
    rounds so far began, ascending, the present one last.
    """

    losses: LossDistribution | None
    stream: int
    round_steps: tuple[int, ...] = ()

    @property
    def uniform(self) -> pl.Expr:
        """float64 in (0, 1], one draw per sample."""
        return sample_uniform(self.stream)

    def age(self, measured_step: pl.Expr) -> pl.Expr:
        """How many rounds began after a step, u32."""
        steps = np.array(self.round_steps, dtype=np.uint64)
        begun_later = partial(_count_later, steps=steps)
        return elementwise(begun_later, measured_step.cast(pl.UInt64), dtype=pl.UInt32)


def _count_later(measured: npt.NDArray[np.uint64], *, steps: npt.NDArray[np.uint64]) -> Any:
    return len(steps) - np.searchsorted(steps, measured, side="right")


@dataclass(frozen=True)
class Cutoff:
    """What came of the keys, as float64 expressions: each stratum has its own values.

    `num_selected` of `num_eligible` (in samples, or in units where the budget is), and the largest
    key that was not selected.
    """

    num_selected: pl.Expr
    num_eligible: pl.Expr
    first_excluded: pl.Expr


class Strategy(Protocol):
    """Maps a row to a key; the rows with the largest keys are the teaching subset."""

    # Whether the key uses `Candidates.losses`, which costs one more pass over the catalog.
    needs_distribution: ClassVar[bool]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the catalog that the key reads; a row without a number there has no key."""
        ...

    def key(self, candidates: Candidates) -> pl.Expr:
        """float64 per row, never NaN or null: larger is selected first."""
        ...

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        """float64 per row: the probability that the row is selected."""
        ...
