"""Calibration of losses observed in training: quantile map to scored losses, trend removal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from attent_select.stats.agreement import MIN_VALUES

_NUM_KNOTS: Final = 65
# Per epoch. Within one stretch the model hardly changes, except in the first.
_NUM_STRETCHES: Final = 32

Losses = npt.NDArray[np.floating]
Stepped = npt.NDArray[np.integer]


@dataclass(frozen=True)
class QuantileMap:
    """x ↦ G⁻¹(F(x)), F and G the distributions of the observed and the scored losses of some rows.

    An observed loss comes from train mode, with dropout and augmentation, and from a model that
    kept learning; a scored loss comes from eval mode. On rows that have both, the map gives the
    observed losses the distribution of the scored ones and preserves their order.

    Linear between the knots; slope 1 beyond them, to keep the order of the hardest rows. The result
    is never below min(0, smallest scored loss).

    Attributes:
        observed: knots, strictly increasing; empty for the identity.
        scored: value at each knot, non-decreasing.

    Source: quantile mapping, as in Panofsky and Brier, "Some Applications of Statistics to
    Meteorology", 1958.
    """

    observed: tuple[float, ...] = ()
    scored: tuple[float, ...] = ()

    @classmethod
    def fit(cls, observed: Losses, scored: Losses) -> "QuantileMap | None":
        """Fit to rows that have both losses; None if fewer than 32 pairs are finite."""
        is_finite = np.isfinite(observed) & np.isfinite(scored)
        if int(is_finite.sum()) < MIN_VALUES:
            return None
        return cls.between(observed[is_finite], scored[is_finite])

    @classmethod
    def between(cls, observed: Losses, scored: Losses) -> "QuantileMap":
        """Fit to two sets of finite losses, which may come from different rows."""
        shares = np.linspace(0.0, 1.0, _NUM_KNOTS)
        x, y = (np.quantile(side.astype(float), shares) for side in (observed, scored))
        knots, knot = np.unique(x, return_inverse=True)
        # Equal observed losses share one knot: the mean of the values they would map to.
        means = np.bincount(knot, weights=y) / np.bincount(knot)
        return cls(tuple(knots.tolist()), tuple(np.maximum.accumulate(means).tolist()))

    @classmethod
    def from_dict(cls, values: dict[str, Sequence[float]]) -> "QuantileMap":
        """Restore a map from the result of `to_dict`."""
        return cls(tuple(values["observed"]), tuple(values["scored"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the knots as lists, for JSON."""
        return {"observed": list(self.observed), "scored": list(self.scored)}

    def __call__(self, losses: Losses, steps: Stepped | None = None) -> npt.NDArray[np.float64]:
        """Map the losses: float64 of the same shape, non-decreasing. `steps` is ignored."""
        mapped: npt.NDArray[np.float64] = np.array(losses, dtype=np.float64)
        if self.observed:
            beyond = mapped - mapped.clip(self.observed[0], self.observed[-1])
            mapped = np.interp(mapped, self.observed, self.scored) + beyond
            mapped = mapped.clip(min=min(0.0, self.scored[0]))
        return mapped


@dataclass(frozen=True)
class Trend:
    """Losses observed during an epoch, adjusted as if all were observed at its end.

    A sample seen early was measured with a less trained model, so it seems harder than one seen
    late. The order of an epoch is random, so each stretch of steps saw a random subset of the
    corpus. The losses of each stretch are mapped to the distribution of the last stretch; their
    order is preserved.

    Attributes:
        first_steps: first step of each stretch, ascending.
        maps: quantile map of each stretch.
    """

    first_steps: tuple[int, ...] = ()
    maps: tuple[QuantileMap, ...] = ()

    @classmethod
    def fit(cls, losses: Losses, steps: Stepped) -> "Trend":
        """Fit to the losses of one epoch; the identity if there are too few rows."""
        order = np.argsort(steps, kind="stable")
        losses, steps = losses[order], steps[order]
        num_stretches = min(_NUM_STRETCHES, len(losses) // (4 * MIN_VALUES))
        if num_stretches < 2:
            return cls()
        edges = np.unique(steps[np.arange(num_stretches) * len(steps) // num_stretches])
        stretches = np.split(losses, np.searchsorted(steps, edges[1:]))
        maps = [QuantileMap.between(stretch, stretches[-1]) for stretch in stretches]
        return cls(tuple(int(edge) for edge in edges), tuple(maps))

    def __call__(self, losses: Losses, steps: Stepped) -> npt.NDArray[np.float64]:
        """Map the losses observed at `steps`: float64 of the same shape."""
        mapped: npt.NDArray[np.float64] = np.array(losses, dtype=np.float64)
        stretch = np.searchsorted(
            np.array(self.first_steps[1:], dtype=np.int64), steps, side="right"
        )
        for number, stretch_map in enumerate(self.maps):
            in_stretch = stretch == number
            mapped[in_stretch] = stretch_map(mapped[in_stretch])
        return mapped
