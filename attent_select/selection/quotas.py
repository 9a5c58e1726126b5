"""How a budget is shared among strata: whole numbers that add up. Pure arithmetic.

Equal, proportional and given shares.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from attent_select.errors import InputError, TooFewError

# `equal`, `proportional` to the eligible rows, or stratum → share (shares are relative).
Quotas = Literal["equal", "proportional"] | Mapping[str, float]


def allocate(budget: int, *, available: Mapping[str, int], quotas: Quotas) -> dict[str, int]:
    """How many of `budget` each stratum gets; never more than it has available.

    Shares are rounded by largest remainders (ties: the first by name). What a stratum cannot fill
    goes to the others by their shares. A stratum that given quotas do not name gets nothing.

    Raises:
        InputError: given quotas name an unknown stratum or are negative.
        TooFewError: the strata with a share have fewer rows than the budget.
    """
    shares = _shares(available, quotas)
    open_strata = [name for name in sorted(available) if shares.get(name, 0)]
    total = sum(available[name] for name in open_strata)
    if total < budget:
        raise TooFewError(
            f"{budget} asked for, but the strata with a quota have only {total}: ask for at most "
            f"{total}, or give more strata a quota",
            total,
        )
    got = dict.fromkeys(available, 0)
    left = budget
    while open_strata and left:
        wanted = _rounded(left, [shares[name] for name in open_strata])
        full = [
            name for name, want in zip(open_strata, wanted, strict=True) if want >= available[name]
        ]
        if not full:
            got |= dict(zip(open_strata, wanted, strict=True))
            break
        for name in full:
            got[name] = available[name]
            left -= available[name]
            open_strata.remove(name)
    return got


def _shares(available: Mapping[str, int], quotas: Quotas) -> dict[str, Fraction]:
    if quotas == "equal":
        return {name: Fraction(1) for name, rows in available.items() if rows}
    if quotas == "proportional":
        return {name: Fraction(rows) for name, rows in available.items()}
    if not isinstance(quotas, Mapping):
        raise InputError(f"quotas: {quotas!r}; expected equal, proportional, or stratum → share")
    if unknown := sorted(set(quotas) - set(available)):
        known = ", ".join(sorted(available))
        raise InputError(f"quotas: no stratum {', '.join(unknown)}; there are {known}")
    if negative := sorted(k for k, share in quotas.items() if not 0 <= share < math.inf):
        raise InputError(f"quotas: the share of {', '.join(negative)} is not a number ≥ 0")
    return {name: Fraction(share) for name, share in quotas.items()}


def _rounded(budget: int, shares: Sequence[Fraction]) -> list[int]:
    exact = [budget * share / sum(shares) for share in shares]
    whole = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: budget - sum(whole)]:
        whole[i] += 1
    return whole
