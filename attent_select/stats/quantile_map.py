"""Losses observed while training, on the scale of those that are scored. Pure.

The quantile map and fitting it; and where nothing is scored, the trend of an epoch taken out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from attent_select.stats.agreement import MIN_VALUES

_NUM_KNOTS: Final = 65
# Of an epoch; within one of them the model hardly learns, but for the very first.
_NUM_STRETCHES: Final = 32

Losses = npt.NDArray[np.floating]
Stepped = npt.NDArray[np.integer]


@dataclass(frozen=True)
class QuantileMap:
    """x ↦ G⁻¹(F(x)): F how the observed losses of some rows lie, G how their scored losses do.

    An observed loss comes from train mode, with dropout and augmentation, and from a model that has
    learned on since; a scored one from eval mode. On rows that have both, the map gives the
    observed losses the distribution of the scored ones and leaves their order alone.

    Linear between the knots, of slope 1 beyond them (the order of the hardest rows must not be
    lost), never below the smallest scored loss or zero, whichever is less.

    Attributes:
        observed: knots, strictly increasing; none for the identity.
        scored: what each is mapped to, never decreasing.

    Source: quantile mapping, as in Panofsky and Brier, "Some Applications of Statistics to
    Meteorology", 1958.
    """

    observed: tuple[float, ...] = ()
    scored: tuple[float, ...] = ()

    @classmethod
    def fit(cls, observed: Losses, scored: Losses) -> "QuantileMap | None":
        """From rows that have both losses; None where fewer than 32 of them are finite."""
        is_finite = np.isfinite(observed) & np.isfinite(scored)
        if int(is_finite.sum()) < MIN_VALUES:
            return None
        return cls.between(observed[is_finite], scored[is_finite])

    @classmethod
    def between(cls, observed: Losses, scored: Losses) -> "QuantileMap":
        """From two samples of finite losses, which need not be of the same rows."""
        shares = np.linspace(0.0, 1.0, _NUM_KNOTS)
        x, y = (np.quantile(side.astype(float), shares) for side in (observed, scored))
        knots, place = np.unique(x, return_inverse=True)
        # Where many observed losses are equal, one knot stands for them: the mean of what they
        # would be mapped to.
        means = np.bincount(place, weights=y) / np.bincount(place)
        return cls(tuple(knots.tolist()), tuple(np.maximum.accumulate(means).tolist()))

    @classmethod
    def from_dict(cls, values: dict[str, Sequence[float]]) -> "QuantileMap":
        """What `to_dict` gave."""
        return cls(tuple(values["observed"]), tuple(values["scored"]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"observed": list(self.observed), "scored": list(self.scored)}

    def __call__(self, losses: Losses, steps: Stepped | None = None) -> npt.NDArray[np.float64]:
        """The losses, mapped: float64 of the same shape. Never decreasing; `steps` say nothing."""
        mapped: npt.NDArray[np.float64] = np.array(losses, dtype=np.float64)
        if self.observed:
            beyond = mapped - mapped.clip(self.observed[0], self.observed[-1])
            mapped = np.interp(mapped, self.observed, self.scored) + beyond
            mapped = mapped.clip(min=min(0.0, self.scored[0]))
        return mapped


@dataclass(frozen=True)
class Trend:
    """Losses observed in the course of an epoch, as though all were observed at its end.

    A sample that came early met a model that knew less, and would seem harder than one that came
    late. The order of an epoch is random, so each stretch of its steps saw a random part of the
    corpus: its losses are given the distribution of those of the last stretch, in their order.

    Attributes:
        first_steps: where each stretch begins, ascending.
        maps: of each.
    """

    first_steps: tuple[int, ...] = ()
    maps: tuple[QuantileMap, ...] = ()

    @classmethod
    def fit(cls, losses: Losses, steps: Stepped) -> "Trend":
        """From what an epoch observed of a random part of the corpus; none for too few rows."""
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
        """The losses observed at `steps`, mapped: float64 of the same shape."""
        mapped: npt.NDArray[np.float64] = np.array(losses, dtype=np.float64)
        stretch = np.searchsorted(
            np.array(self.first_steps[1:], dtype=np.int64), steps, side="right"
        )
        for place, of_stretch in enumerate(self.maps):
            here = stretch == place
            mapped[here] = of_stretch(mapped[here])
        return mapped
