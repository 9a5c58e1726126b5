"""How much uniform training a policy equals: its multiple k, with an interval over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attent_select.stats.confidence import ConfidenceInterval


@dataclass(frozen=True)
class Multiple:
    """A cost of uniform training, divided by the cost of a policy with the same loss.

    Attributes:
        value: the multiple k.
        is_at_least: the policy is better than the largest uniform run, and `value` is a lower
            bound.
        is_at_most: it is not better than the smallest, and `value` is an upper bound.
    """

    value: float
    is_at_least: bool = False
    is_at_most: bool = False


def equivalent_multiple(uniform: Mapping[float, float], *, cost: float, loss: float) -> Multiple:
    """Return the multiple of one seed: where its own curve of uniform runs has the loss.

    The curve is piecewise linear between the measured runs, over the logarithm of the cost. A run
    that is worse than a cheaper one is left out, as chance.

    Args:
        uniform: cost → held-out loss of uniform runs, in any unit of cost that is positive.
        cost: cost of the policy, in the same unit.
        loss: its held-out loss.

    Raises:
        ValueError: there are fewer than two uniform runs, or a cost is not positive.
    """
    if len(uniform) < 2:
        raise ValueError(f"a curve needs at least two uniform runs, got {len(uniform)}")
    if min(cost, *uniform) <= 0:
        raise ValueError("a cost is not positive")
    costs = sorted(uniform)
    if loss >= uniform[costs[0]]:
        return Multiple(costs[0] / cost, is_at_most=True)
    before, best = costs[0], uniform[costs[0]]
    for after in costs[1:]:
        if uniform[after] <= loss:
            share = (best - loss) / (best - uniform[after])
            return Multiple(before * (after / before) ** share / cost)
        if uniform[after] < best:
            before, best = after, uniform[after]
    return Multiple(costs[-1] / cost, is_at_least=True)


@dataclass(frozen=True)
class MultipleInterval:
    """Geometric mean of the multiples of several seeds, with a 95 % confidence interval.

    Attributes:
        mean, low, high: of k; `low` and `high` are None for a single seed. Student's t of ln k.
        count: number of seeds.
        is_at_least, is_at_most: whether a seed's multiple is only a bound, which makes `mean` one.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    is_at_least: bool
    is_at_most: bool

    @classmethod
    def of(cls, multiples: Sequence[Multiple]) -> "MultipleInterval":
        """Return the interval.

        Raises:
            ValueError: `multiples` is empty.
        """
        logs = ConfidenceInterval.of([math.log(multiple.value) for multiple in multiples])
        return cls(
            mean=math.exp(logs.mean),
            low=None if logs.low is None else math.exp(logs.low),
            high=None if logs.high is None else math.exp(logs.high),
            count=logs.count,
            is_at_least=any(multiple.is_at_least for multiple in multiples),
            is_at_most=any(multiple.is_at_most for multiple in multiples),
        )
