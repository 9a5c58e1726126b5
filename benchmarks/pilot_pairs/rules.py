"""When a pilot is right about a pair of regime and policy. Pure."""

from typing import Final

from attent_select.stats.equivalence import MultipleInterval
from pipeline.pilot.verdict import LEAST_MULTIPLE, Answer

# A multiple of the pilot is near the measured one within this factor.
FACTOR: Final = 1.5


def sign_of(multiple: MultipleInterval) -> int | None:
    """Return 1 above uniform training and −1 below; None where a bound leaves it open."""
    low, high = _range(multiple)
    return 1 if low > 1 else -1 if high < 1 else None


def is_same_sign(pilot: MultipleInterval, measured: MultipleInterval) -> bool:
    """Whether both are on the same side of uniform training. What is open is not."""
    return sign_of(pilot) is not None and sign_of(pilot) == sign_of(measured)


def is_decided(measured: MultipleInterval) -> bool:
    """Whether the interval of the measured multiple is on one side of uniform training."""
    low, high = measured.low, measured.high
    return low is not None and high is not None and (low > 1 or high < 1)


def is_near(pilot: MultipleInterval, measured: MultipleInterval, *, factor: float = FACTOR) -> bool:
    """Whether the multiples can be within the factor of each other: a bound is compatible with all
    that it allows, and a multiple that is bounded on both sides says nothing.
    """
    if any(each.is_at_least and each.is_at_most for each in (pilot, measured)):
        return False
    (low, high), (measured_low, measured_high) = _range(pilot), _range(measured)
    return low <= factor * measured_high and measured_low <= factor * high


def are_same_bounds(pilot: MultipleInterval, measured: MultipleInterval) -> bool:
    """Whether both are bounds on the same side, so that they are near whatever they are."""
    bounds = [(each.is_at_least, each.is_at_most) for each in (pilot, measured)]
    return bounds[0] == bounds[1] and sum(bounds[0]) == 1


def is_right(answer: Answer, measured: MultipleInterval) -> bool | None:
    """Whether the answer of a pilot is that of the measured multiple; None if it is uncertain, or
    if what was measured is bounded on both sides.
    """
    low, high = _range(measured)
    if low == 0 and high == float("inf"):
        return None
    if answer == "it will pay":
        return low > 1
    return high < LEAST_MULTIPLE if answer == "it will not pay" else None


def _range(multiple: MultipleInterval) -> tuple[float, float]:
    """Return the values that the mean can have, which is a bound if one of its seeds is."""
    low = 0.0 if multiple.is_at_most else multiple.mean
    return low, float("inf") if multiple.is_at_least else multiple.mean
