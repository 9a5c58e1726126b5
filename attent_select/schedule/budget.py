"""Budgets of any size: how much a run trains on, and the pools of candidates that it chooses from.

With φ = seconds to score a sample / seconds to train on it, a round that trains on the share ρ of
the corpus and chooses it from a pool of `multiple` times as many candidates costs, in epochs over
the corpus,

    ρ · (1 + multiple · φ),

whatever the size of the corpus.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

from attent_select.errors import InputError

# Of a pool, and of the first round of `auto`. It is about the best for losses with an exponential
# distribution and φ = 1/3, see `cost.py`.
DEFAULT_MULTIPLE: Final = 3.0
# Teaching rounds of a budget where each round draws a pool.
DEFAULT_ROUNDS: Final = 10


@dataclass(frozen=True)
class Amount:
    """An amount of data: exactly one of these.

    Attributes:
        samples: number of samples, at least 1.
        units: number of units (tokens for text), at least 1.
        epochs: passes over the corpus, such as 0.01.
    """

    samples: int | None = None
    units: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        names = [n for n in ("samples", "units", "epochs") if getattr(self, n) is not None]
        if len(names) != 1:
            raise InputError("expected exactly one of samples, units and epochs")
        value = getattr(self, names[0])
        if not 0 < value < math.inf:
            raise InputError(f"{names[0]}: {value} is not positive")

    def num_samples(self, *, total: int, mean_units: float | None) -> int:
        """Return the amount in samples of a corpus of `total` samples, at least 1.

        Args:
            total: samples of the corpus.
            mean_units: units of a sample on average, needed for an amount in units.
        """
        if self.samples is not None:
            return self.samples
        if self.epochs is not None:
            return max(1, round(self.epochs * total))
        assert self.units is not None
        assert mean_units is not None, "the caller counts units"
        return max(1, round(self.units / mean_units))


@dataclass(frozen=True)
class Pool:
    """Candidates: the samples that a teaching round draws, scores and chooses its subset from.

    Attributes:
        multiple: fresh candidates for each selected sample, at least 1. `auto`: before each round,
            the cost model chooses as many as pay for their scoring; the first round has 3.
        block_rows: rows next to each other in storage that are drawn together: more of them are
            read faster and are less random. 1 draws single rows, `row_group` whole row groups.
        keep_rounds: number of later rounds in which candidates that were scored and not taken
            compete again, by the loss that they had.
    """

    multiple: float | Literal["auto"] = DEFAULT_MULTIPLE
    block_rows: int | Literal["row_group"] = 256
    keep_rounds: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.first_multiple < math.inf:
            raise InputError(
                f"multiple: {self.multiple} is less than 1: a round chooses its samples from"
                " `multiple` times as many candidates"
            )
        if self.block_rows != "row_group" and not 1 <= self.block_rows < 1 << 32:
            raise InputError(f"block_rows: {self.block_rows} is less than 1")
        if self.keep_rounds < 0:
            raise InputError(f"keep_rounds: {self.keep_rounds} is negative")

    @property
    def first_multiple(self) -> float:
        """The multiple of a round before anything was decided."""
        return DEFAULT_MULTIPLE if self.multiple == "auto" else self.multiple

    def num_candidates(self, num_samples: int, *, multiple: float | None = None) -> int:
        """Return the fresh candidates of a round that selects `num_samples`.

        `multiple` is that which was decided for the round, if any.
        """
        return math.ceil((multiple or self.first_multiple) * num_samples)
