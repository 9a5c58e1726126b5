"""Quotas: dividing a budget among strata into whole numbers that add up.

Moving quotas change from round to round to where the learner still has something to learn. With αᵢ
the share of stratum i, n strata, λᵢ the mean of ℓ − ℓ_reference over random samples of it, η the
`rate` and c the `min_share`,

    α′ᵢ ∝ αᵢ · exp(η · max(λᵢ, 0)),    αᵢ ← (1 − n·c) · α′ᵢ + c.

Source: algorithm 1 of Xie et al., "DoReMi: Optimizing Data Mixtures Speeds Up Language Model
Pretraining" (NeurIPS 2023), which smooths with the same formula. It clips the excess of each token;
here losses of samples are known, and the mean of a stratum is clipped, so that noise around 0 adds
nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from attent_select.errors import InputError, TooFewError
from attent_select.schema import LEARNER_COLUMNS


@dataclass(frozen=True)
class MovingQuotas:
    """Quotas that move to the strata where the learner's loss exceeds that of a reference the most.

    Attributes:
        reference: annotation with the loss of a reference model, in nats.
        kind: `excess`.
        samples: random samples of each stratum whose losses are compared in each round.
        min_share: least share of a stratum, in [0, 1].
        rate: how far an excess of one nat moves the shares in one round, more than 0.
    """

    reference: str
    kind: Literal["excess"] = "excess"
    samples: int = 48
    min_share: float = 0.05
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.kind != "excess":
            raise InputError(f"kind: {self.kind!r}; expected excess, equal or proportional")
        if self.reference in LEARNER_COLUMNS:
            raise InputError(
                f"reference: {self.reference} changes with the learner: name an annotation with the"
                " losses of a reference model (kind loss)"
            )
        if self.samples < 1:
            raise InputError(f"samples: {self.samples} is less than 1")
        if not 0 <= self.min_share <= 1:
            raise InputError(f"min_share: {self.min_share} is outside [0, 1]")
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate: {self.rate} is not positive")

    def check_strata(self, count: int) -> None:
        """Raise `InputError` if the least shares of `count` strata exceed 1 together."""
        if self.min_share * count > 1:
            raise InputError(
                f"min_share: {self.min_share:g} for each of {count} strata is"
                f" {self.min_share * count:g} together: expected at most {1 / count:.3g}"
            )


# `equal`, `proportional` to the eligible rows, or stratum → share (shares are relative).
Quotas = Literal["equal", "proportional"] | MovingQuotas | Mapping[str, float]


def moved_shares(
    shares: Mapping[str, float], excess: Mapping[str, float], *, quotas: MovingQuotas
) -> dict[str, float]:
    """Return the share of each stratum after a round; they add up to 1.

    Args:
        shares: of the strata before, not all 0.
        excess: mean excess loss in nats, of the strata where it is known.
        quotas: how far shares move.
    """
    names = sorted(shares)
    quotas.check_strata(len(names))
    gains = {n: max(excess.get(n, 0.0), 0.0) for n in names if shares[n]}
    largest = max(gains.values())  # subtracted, as exp of hundreds of nats overflows
    moved = dict.fromkeys(names, 0.0) | {
        name: shares[name] * math.exp(quotas.rate * (gain - largest))
        for name, gain in gains.items()
    }
    total = math.fsum(moved.values())
    rest = 1 - quotas.min_share * len(names)
    return {name: rest * moved[name] / total + quotas.min_share for name in names}


def allocate(budget: int, *, available: Mapping[str, int], quotas: Quotas) -> dict[str, int]:
    """Return each stratum's share of `budget`, never more than it has available.

    Shares are rounded by largest remainders (tie-break: by name). What a stratum cannot use goes to
    the others in proportion to their shares. A stratum without a quota gets nothing.

    Raises:
        InputError: the quotas name an unknown stratum or are negative.
        TooFewError: the strata with a quota have fewer rows than the budget.
    """
    shares = _shares(available, quotas)
    open_strata = [name for name in sorted(available) if shares.get(name, 0)]
    total = sum(available[name] for name in open_strata)
    if total < budget:
        raise TooFewError(
            f"{budget} requested, but the strata with a quota have only {total}: request at most "
            f"{total}, or give more strata a quota",
            total,
        )
    allocation = dict.fromkeys(available, 0)
    left = budget
    while open_strata and left:
        rounded = _divide(left, [shares[name] for name in open_strata])
        proposal = dict(zip(open_strata, rounded, strict=True))
        full = [name for name, amount in proposal.items() if amount >= available[name]]
        if not full:
            allocation |= proposal
            break
        for name in full:
            allocation[name] = available[name]
            left -= available[name]
            open_strata.remove(name)
    return allocation


def _shares(available: Mapping[str, int], quotas: Quotas) -> dict[str, Fraction]:
    if quotas == "equal":
        return {name: Fraction(1) for name, rows in available.items() if rows}
    if quotas == "proportional":
        return {name: Fraction(rows) for name, rows in available.items()}
    if isinstance(quotas, MovingQuotas):
        raise InputError(
            "quotas: kind excess moves between the rounds of a run: for one selection choose equal,"
            " proportional, or stratum → share"
        )
    if not isinstance(quotas, Mapping):
        raise InputError(f"quotas: {quotas!r}; expected equal, proportional, or stratum → share")
    if unknown := sorted(set(quotas) - set(available)):
        known = ", ".join(sorted(available))
        raise InputError(f"quotas: unknown stratum {', '.join(unknown)}; expected {known}")
    if invalid := sorted(name for name, share in quotas.items() if not 0 <= share < math.inf):
        raise InputError(f"quotas: the share of {', '.join(invalid)} is not a finite number ≥ 0")
    return {name: Fraction(share) for name, share in quotas.items()}


def _divide(budget: int, shares: Sequence[Fraction]) -> list[int]:
    exact = [budget * share / sum(shares) for share in shares]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: budget - sum(whole)]:
        whole[i] += 1
    return whole
