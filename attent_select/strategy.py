"""What a selection strategy must do, and what it is given to do it with.

Here: the protocol and its values. Not here: the strategies (`attent_select/strategies/`, one file
each), the search for the cutoff (`top_m.py`) or what surrounds a strategy (`teaching.py`).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import polars as pl

from attent_select.distribution import LossDistribution


@dataclass(frozen=True)
class Candidates:
    """The rows to choose from: how their losses lie, and one random number for each.

    `losses` is None unless the strategy needs their distribution. `uniform` is a float64 expression
    in (0, 1], its own per (seed, round, sample). `round_steps` are the optimizer steps at which the
    rounds so far began, ascending, the present one last.
    """

    losses: LossDistribution | None
    uniform: pl.Expr
    round_steps: tuple[int, ...] = ()

    def age(self, measured_step: pl.Expr) -> pl.Expr:
        """How many rounds began after a step, u32."""
        steps = np.array(self.round_steps, dtype=np.uint64)

        def count(measured: pl.Series) -> pl.Series:
            later = np.searchsorted(steps, measured.fill_null(0).to_numpy(), side="right")
            return pl.Series(len(steps) - later, dtype=pl.UInt32)

        measured = measured_step.cast(pl.UInt64)
        return measured.map_batches(count, return_dtype=pl.UInt32, is_elementwise=True)


@dataclass(frozen=True)
class Outcome:
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

    def probability(self, candidates: Candidates, outcome: Outcome) -> pl.Expr:
        """float64 per row: the probability that the row is selected."""
        ...
