"""What a regime is: data, model, optimizer and horizon, the same for all of its arms."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learning_arms.arms import Horizon, arms


@dataclass(frozen=True)
class Data:
    """Parquet files: to train on, to look at after each round, and to judge by at the end; and
    sections of the configuration that name files.
    """

    train: str
    curve: str | None
    final: str
    sections: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Regime:
    """What all arms share.

    Attributes:
        horizon: how long it learns.
        data: makes or finds the files, in a folder, from those of `--data`.
        sections: `task`, `model`, `training` and `scoring` of the configuration.
        quality: the metric that arms are compared by beside `eval_loss`.
        probe: makes what else says, at the end, how good a model is.
    """

    horizon: Horizon
    data: Callable[[Path, Path], Data]
    sections: dict[str, Any]
    quality: str = "accuracy"
    probe: Callable[[Data], Any] | None = None

    def arms(self) -> dict[str, Any]:
        """Name → sections of the configuration."""
        return arms(self.horizon)
