"""What a pilot says about a policy: how much uniform training it equals, and whether it will pay.

Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from attent_select.stats.confidence import ConfidenceInterval
from attent_select.stats.equivalence import MultipleInterval, equivalent_multiple

Answer = Literal["it will pay", "it will not pay", "uncertain"]

# A policy that equals less uniform training than this is not worth its trouble.
LEAST_MULTIPLE: Final = 1.2


@dataclass(frozen=True)
class Outcome:
    """What a small run cost, in units trained on with scoring counted, and its held-out loss."""

    cost: float
    loss: float


@dataclass(frozen=True)
class PolicyVerdict:
    """The answer about one policy.

    Attributes:
        policy: its name.
        keep: share of the candidates that it keeps.
        multiple: how much uniform training it equals, at equal cost 1, with scoring counted.
        answer: whether it will pay.
    """

    policy: str
    keep: float
    multiple: MultipleInterval
    answer: Answer

    def __str__(self) -> str:
        multiple = self.multiple
        bound = " or more" if multiple.is_at_least else " or less" if multiple.is_at_most else ""
        interval = ""
        if multiple.low is not None and multiple.high is not None:
            interval = f" ({multiple.low:.1f} to {multiple.high:.1f})"
        times = f"{multiple.mean:.1f} ×{bound}{interval}"
        return f"{self.policy} equals uniform at {times}: {self.answer}"


def judge(
    policy: str,
    runs: Mapping[int, Outcome],
    uniform: Mapping[int, Sequence[Outcome]],
    *,
    keep: float,
) -> PolicyVerdict:
    """Return the verdict on a policy.

    It will pay if the whole interval of the multiple is above 1, and will not if it is below 1.2.
    Nothing is certain unless larger uniform runs are better than smaller ones, beyond chance.

    Args:
        policy: name of the policy.
        runs: seed → run of the policy.
        uniform: seed → uniform runs, the smallest first.
        keep: share of the candidates that the policy keeps.
    """
    multiples = [
        equivalent_multiple(
            {each.cost: each.loss for each in uniform[seed]}, cost=run.cost, loss=run.loss
        )
        for seed, run in runs.items()
    ]
    interval = MultipleInterval.of(multiples)
    return PolicyVerdict(policy, keep, interval, _answer(interval, rises=learns(uniform)))


def learns(uniform: Mapping[int, Sequence[Outcome]]) -> bool:
    """Whether the largest uniform runs are better than the smallest, beyond chance."""
    gains = [runs[0].loss - runs[-1].loss for runs in uniform.values()]
    return ConfidenceInterval.of(gains).is_above_zero


def best_of(verdicts: Sequence[PolicyVerdict]) -> PolicyVerdict | None:
    """Return the policy with the largest lower bound of those that will pay."""
    paying = [each for each in verdicts if each.answer == "it will pay"]
    return max(paying, key=lambda each: each.multiple.low or 0.0, default=None)


def _answer(interval: MultipleInterval, *, rises: bool) -> Answer:
    if not rises or interval.low is None or interval.high is None:
        return "uncertain"
    if interval.low > 1 and not interval.is_at_most:
        return "it will pay"
    if interval.high < LEAST_MULTIPLE and not interval.is_at_least:
        return "it will not pay"
    return "uncertain"
