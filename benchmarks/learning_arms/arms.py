"""The arms: ways to use a budget, as the sections `selection` and `schedule` of a configuration.

The controls, the published methods, and ours. All arms of one regime share everything else.
"""

from dataclasses import dataclass, replace
from typing import Any

from learning_arms.summary import ALL, SHORT

Sections = dict[str, Any]

SOFT = {"strategy": "soft"}
# Limits the effect of a few broken samples.
GUARDED = SOFT | {"clip_high": 0.95, "max_visits": 2, "hard_quantile": 0.95}
_PHI = 0.35  # cost of scoring a sample relative to training it, measured


@dataclass(frozen=True)
class Horizon:
    """Epochs and rounds of a regime.

    Attributes:
        epochs: epochs of the control on all data.
        same_cost: epochs on all data at the cost of ours.
        rounds: number of subsets in ours, each seen once, after an epoch on all data.
        anneal: epochs on all data at the end of ours.
        is_raw: whether samples may be broken.
    """

    epochs: int
    same_cost: int
    rounds: int
    anneal: int = 0
    is_raw: bool = False

    def ours(self, *, rescore: Sections, scored: float = 0.0) -> Sections:
        """One epoch on all data, subsets, and annealing, at the cost of `same_cost` epochs;
        `scored` epochs of scoring are deducted from training.
        """
        selection = GUARDED if self.is_raw else SOFT
        return {"selection": selection, "schedule": _schedule(self, rescore, scored=scored)}

    def plain(self, *, rescore: Sections) -> Sections:
        """The same without annealing and guard."""
        longer = replace(self, rounds=self.rounds + self.anneal, anneal=0)
        return {"selection": SOFT, "schedule": _schedule(longer, rescore)}

    def adaptive(self, *, share: float) -> Sections:
        """The same budget with the adaptive schedule; it needs scoring to measure a gain."""
        sections = self.ours(
            rescore={"kind": "auto", "share": share}, scored=1 + share * (self.rounds - 1)
        )
        sections["schedule"]["ratio"]["kind"] = "adaptive"
        return sections


def _schedule(horizon: Horizon, rescore: Sections, *, scored: float = 0.0) -> Sections:
    # A twentieth is reserved for selecting: ours must not cost more than the control.
    budget = 0.95 * (horizon.same_cost - _PHI * scored) - 1 - horizon.anneal
    return {
        "epochs": 1 + horizon.rounds + horizon.anneal,
        "warmup_epochs": 1,
        "anneal_epochs": horizon.anneal,
        "ratio": {"start": round(budget / horizon.rounds, 3)},
        "rescore": rescore,
    }


def arms(horizon: Horizon) -> dict[str, Sections]:
    """Name → sections."""
    epochs = horizon.epochs
    uniform, observed = {"strategy": "uniform"}, {"kind": "observed"}
    rescored = 1 + 0.1 * (horizon.rounds - 1)
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
        # About two thirds of the losses are below the mean, and half of these are pruned.
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
        "write-back (ours)": horizon.ours(rescore=observed),
        "write-back, plain (ours)": horizon.plain(rescore=observed),
        "re-scoring 10 % (ours)": horizon.ours(
            rescore={"kind": "partial", "share": 0.1}, scored=rescored
        ),
        "adaptive (ours)": horizon.adaptive(share=0.1),
    }


def _published_interval(epochs: int) -> Sections:
    """5 to 10 of 71 epochs."""
    first, last = (max(1, round(epochs * share / 71)) for share in (5, 10))
    return {"kind": "incremental", "epochs": first, "end": max(first, last)}
