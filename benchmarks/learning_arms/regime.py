"""A regime: data, model, optimizer and horizon, the same for all of its arms."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learning_arms.arms import Horizon, arms
from learning_arms.summary import ALL


@dataclass(frozen=True)
class Data:
    """Files of a regime.

    Attributes:
        train, curve, final: Parquet files for training, evaluation after each round, and evaluation
            at the end.
        sections: sections of the configuration that name files.
        costs: annotation of the corpus → processor seconds, paid once for all trials.
        judged: Parquet files of further evaluations at the end, by name.
        stand_ins: what arms name → the file or folder here.
        digest: of the corpus, if it depends on the machine: trials of another one are not mixed.
        notes: facts about the data, which are written beside the trials.
        further: function that makes what arms, as JSON, name beyond that; None if all is made.
    """

    train: str
    curve: str | None
    final: str
    sections: dict[str, Any] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    judged: Mapping[str, str] = field(default_factory=dict)
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    further: "Callable[[Data, str], Data] | None" = None

    def for_arms(self, arms: Sequence[Mapping[str, Any]]) -> "Data":
        """Return the files with all that the sections of arms name."""
        return self if self.further is None else self.further(self, json.dumps(arms))


@dataclass(frozen=True)
class Regime:
    """Settings that all arms share.

    Attributes:
        horizon: epochs and rounds.
        data: function that makes or finds the files in a folder, from those of `--data`.
        sections: `task`, `model`, `training` and `scoring` of the configuration.
        quality: metric by which arms are compared, in addition to `eval_loss`.
        probe: function that makes an additional evaluation for the end.
        named_arms: name → sections, of a regime that has arms unlike those of the others.
        is_judged_by_curves: whether arms are compared with the uniform runs of each seed.
        is_charged_by_token: whether all arms pay the same for training a token; their samples have
            similar lengths.
        learning_rates: those that are tried first with `tuned`, on a seed that is not compared; the
            best one is that of all arms that have none. None are tried if there are none.
        tuned: arm that the learning rate is chosen by.
    """

    horizon: Horizon
    data: Callable[[Path, Path], Data]
    sections: dict[str, Any]
    quality: str = "accuracy"
    probe: Callable[[Data], Any] | None = None
    named_arms: Mapping[str, Any] | None = None
    is_judged_by_curves: bool = False
    is_charged_by_token: bool = False
    learning_rates: Sequence[float] = ()
    tuned: str = ALL

    def arms(self) -> Mapping[str, Any]:
        """Name → sections of the configuration."""
        return self.named_arms or arms(self.horizon)
