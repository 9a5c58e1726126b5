"""The arms: ways to spend a budget, as the sections `selection` and `schedule` of a configuration.

Here: the controls, the published methods, ours. All of one regime share everything else. Not here:
data and models (`regimes.py`), running them (`trial.py`).
"""

from dataclasses import dataclass
from typing import Any

from learning_arms.summary import ALL, SHORT

Sections = dict[str, Any]

# Ours: soft, with what a few broken samples may do to it kept small.
GUARDED = {"strategy": "soft", "clip_high": 0.95, "max_visits": 2, "hard_quantile": 0.95}
_PHI = 0.35  # of training a sample, scoring it: measured


@dataclass(frozen=True)
class Horizon:
    """How long a regime learns.

    Attributes:
        epochs: of all data.
        same_cost: epochs of all data that may cost as much as ours.
        teach_epochs: passes over subsets, after one over all data.
        interval: of them between two selections.
        slope: how much smaller the first ratio is than the mean, and the last larger.
    """

    epochs: int
    same_cost: int
    teach_epochs: int
    interval: int = 1
    slope: float = 0.0

    @property
    def num_rounds(self) -> int:
        return -(-self.teach_epochs // self.interval)

    def ours(self, *, selection: Sections, rescore: Sections, scored: float = 0.0) -> Sections:
        """One epoch on all data, then subsets."""
        mean = self._mean(scored)
        edges = [round(mean * (1 + sign * self.slope), 3) for sign in (-1, 1)]
        ratio = {"kind": "incremental", "start": edges[0], "end": edges[1]}
        schedule = self._taught(ratio if self.slope else {"start": edges[0]})
        return {"selection": selection, "schedule": schedule | {"rescore": rescore}}

    def adaptive(self, *, share: float) -> Sections:
        """The same budget, spent as the run decides; a gain can only be seen where it scores."""
        mean = self._mean(1 + share * (self.num_rounds - 1))
        schedule = self._taught({"kind": "adaptive", "start": round(mean, 3)})
        rescore = {"kind": "auto", "share": share}
        return {"selection": GUARDED, "schedule": schedule | {"rescore": rescore}}

    def _mean(self, scored: float) -> float:
        """The ratio, where `scored` epochs of scoring are saved in training. A twentieth is left
        for selecting: ours must not cost more than the control.
        """
        return (0.95 * (self.same_cost - _PHI * scored) - 1) / self.teach_epochs

    def _taught(self, ratio: Sections) -> Sections:
        return {
            "epochs": 1 + self.teach_epochs,
            "warmup_epochs": 1,
            "ratio": ratio,
            "interval": {"epochs": self.interval},
        }


def arms(horizon: Horizon) -> dict[str, Sections]:
    """Name → sections."""
    epochs = horizon.epochs
    uniform, observed = {"strategy": "uniform"}, {"kind": "observed"}
    rescored = 1 + 0.1 * (horizon.num_rounds - 1)
    anneal = max(1, round(epochs / 8))
    return {
        ALL: {"selection": uniform, "schedule": {"epochs": epochs, "ratio": {"start": 1.0}}},
        SHORT: {
            "selection": uniform,
            "schedule": {"epochs": horizon.same_cost, "ratio": {"start": 1.0}},
        },
        "uniform subsets (RS2)": {
            "selection": uniform,
            "schedule": {"epochs": epochs, "ratio": {"start": horizon.same_cost / epochs}},
        },
        # Half of what lies below the mean is pruned; about two thirds do.
        "InfoBatch": {
            "selection": {"strategy": "below_mean", "weights": "inverse_probability"},
            "schedule": {
                "epochs": epochs,
                "warmup_epochs": 1,
                "anneal_epochs": anneal,
                "ratio": {"start": 0.65},
                "rescore": observed,
            },
        },
        "AtteNT as published": {
            "selection": {"strategy": "soft", "reference": True},
            "schedule": {
                "epochs": epochs,
                "ratio": {"kind": "cosine", "start": 0.2, "end": 0.8},
                "interval": _published_interval(epochs),
            },
        },
        "write-back (ours)": horizon.ours(selection=GUARDED, rescore=observed),
        "write-back, no guard (ours)": horizon.ours(
            selection={"strategy": "soft"}, rescore=observed
        ),
        "re-scoring 10 % (ours)": horizon.ours(
            selection=GUARDED, rescore={"kind": "partial", "share": 0.1}, scored=rescored
        ),
        "adaptive (ours)": horizon.adaptive(share=0.1),
    }


def _published_interval(epochs: int) -> Sections:
    """5 to 10 of 71 epochs."""
    first, last = (max(1, round(epochs * share / 71)) for share in (5, 10))
    return {"kind": "incremental", "epochs": first, "end": max(first, last)}
