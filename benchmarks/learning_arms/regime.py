"""A regime: data, model, optimizer and horizon, the same for all of its arms."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learning_arms.arms import Horizon, arms


@dataclass(frozen=True)
class Data:
    """Parquet files for training, evaluation after each round and evaluation at the end; and the
    sections of the configuration that name files.
    """

    train: str
    curve: str | None
    final: str
    sections: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Regime:
    """Settings that all arms share.

    Attributes:
        horizon: epochs and rounds.
        data: function that makes or finds the files in a folder, from those of `--data`.
        sections: `task`, `model`, `training` and `scoring` of the configuration.
        quality: metric by which arms are compared, in addition to `eval_loss`.
        probe: function that makes an additional evaluation for the end.
    """

    horizon: Horizon
    data: Callable[[Path, Path], Data]
    sections: dict[str, Any]
    quality: str = "accuracy"
    probe: Callable[[Data], Any] | None = None

    def arms(self) -> dict[str, Any]:
        """Name → sections of the configuration."""
        return arms(self.horizon)
