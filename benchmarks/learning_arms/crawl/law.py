"""The law of enrichment: a mixture with e times the wanted share is worth e times as many rows.

Training on n rows of which a share s is wanted visits as many wanted rows as uniform training on
n·s/s₀ rows of a corpus with the share s₀. If the loss of the target depends on the wanted rows
alone, and none is repeated, the mixture equals uniform training at k = s/s₀.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from learning_arms.crawl.pool import SHARES, WANTED

_MIXTURE: Final = re.compile(r"broad · (\d+)% wanted rows")
_ORACLE: Final = re.compile(r"broad · oracle(?:: the wanted rows|, rows seen \d+ times| (\d+) ×)")


def predicted_multiple(arm: str) -> float | None:
    """Return k for a policy with a known share of wanted rows; None for another one."""
    wanted_share = sum(SHARES[name] for name in WANTED)
    if mixture := _MIXTURE.fullmatch(arm):
        return int(mixture[1]) / 100 / wanted_share
    if oracle := _ORACLE.fullmatch(arm):
        return int(oracle[1] or 1) / wanted_share
    return None


def markdown(rows: Sequence[Mapping[str, Any]], *, cell: Any) -> str:
    """Format what is predicted beside what was measured, `cell` formatting a multiple."""
    lines = ["| arm | predicted | measured |", "| --- | ---: | ---: |"]
    for row in rows:
        if (predicted := predicted_multiple(row["arm"])) is not None:
            measured = cell(row.get("tokens_multiple"))
            lines.append(f"| {row['arm']} | {predicted:.1f} × | {measured} |")
    return "\n".join(lines) + "\n"
