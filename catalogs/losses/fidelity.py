"""Fidelity of cheap losses, as it is stored in the provenance of a round's losses. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

# Below it, cheap losses select other samples than whole ones would.
LEAST_CORRELATION: Final = 0.9
_KEY: Final = "fidelity"


@dataclass(frozen=True)
class Fidelity:
    """How cheap losses compare with whole ones.

    Attributes:
        rank_correlation: Spearman's, in [−1, 1]; None if there are too few samples.
        low, high: its 95 % confidence interval.
        cost_share: seconds of the model for the cheap losses, as a share of those for whole ones.
        num_compared: samples that were measured both ways.
    """

    rank_correlation: float | None
    low: float | None
    high: float | None
    cost_share: float
    num_compared: int

    def numbers(self) -> dict[str, float]:
        """Return the numbers that are known, for the metrics of the scoring."""
        named = {
            "rank_correlation": self.rank_correlation,
            "rank_correlation_low": self.low,
            "rank_correlation_high": self.high,
            "cost_share": self.cost_share,
            "num_compared": float(self.num_compared),
        }
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        known = "unknown"
        if self.rank_correlation is not None:
            known = f"{self.rank_correlation:.3f} ({self.low:.3f} to {self.high:.3f})"
        return (
            f"rank correlation of cheap with whole losses {known} on {self.num_compared:,} samples,"
            f" at {self.cost_share:.0%} of their cost"
        )


def with_fidelity(provenance: Mapping[str, Any], fidelity: Fidelity | None) -> dict[str, Any]:
    """Return the provenance of a round's losses with their fidelity."""
    return dict(provenance) | ({} if fidelity is None else {_KEY: asdict(fidelity)})


def fidelity_in(provenance: Mapping[str, Any]) -> Fidelity | None:
    """Return the fidelity of the losses with this provenance; None for whole losses."""
    values = provenance.get(_KEY)
    return None if values is None else Fidelity(**values)
