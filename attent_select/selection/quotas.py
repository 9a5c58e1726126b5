"""Quotas: dividing a budget among strata into whole numbers that add up."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from attent_select.errors import InputError, TooFewError

# `equal`, `proportional` to the eligible rows, or stratum → share (shares are relative).
Quotas = Literal["equal", "proportional"] | Mapping[str, float]


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
