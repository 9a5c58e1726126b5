"""Confidence intervals of means and paired differences from a few repetitions (Student's t)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class ConfidenceInterval:
    """95 % confidence interval of the mean of `count` values; a single value has no bounds."""

    mean: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "ConfidenceInterval":
        """mean ± t·s/√n, with t of n − 1 degrees of freedom.

        Raises:
            ValueError: there are no values.
        """
        if not values:
            raise ValueError("a mean needs at least one value, got none")
        mean = fmean(values)
        if len(values) < 2:
            return cls(mean, None, None, len(values))
        half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half, len(values))

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high is not None and self.high < 0


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float]
) -> ConfidenceInterval | None:
    """Mean of ours − theirs over the seeds that both have; None if they have none in common."""
    seeds = sorted(ours.keys() & theirs.keys())
    return ConfidenceInterval.of([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None


def student_t(degrees: int, *, confidence: float = CONFIDENCE) -> float:
    """Return t with P(|T| ≤ t) = `confidence` for T with `degrees` ≥ 1 degrees of freedom."""
    low, high = 0.0, math.pi / 2
    # Bisect the angle θ: the closed form is a function of θ, and θ is bounded.
    for _ in range(60):
        middle = (low + high) / 2
        if _probability_within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _probability_within(angle: float, degrees: int) -> float:
    """P(|T| ≤ √ν·tan θ).

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2 == 1
    term, total = (cosine if is_odd else 1.0), 0.0
    for power in range(3 if is_odd else 2, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (power - 1) / power
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
