"""Notes of a round beside its metrics: learning rates by step, date, machine and versions."""

import functools
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from catalogs.tables.frames import Notes
from trainers import ranks

LEARNING_RATES: Final = "learning_rates"
ENVIRONMENT: Final = "environment"
FINISHED: Final = "finished_at"

_POINTS: Final = 200
_PACKAGES: Final = ("attent-select", "torch", "transformers", "peft", "polars", "dask")


class LearningRates:
    """Learning rates of about 200 steps of a round, evenly spaced, the first included.

    A round that is resumed has those of the steps since then.
    """

    def __init__(self, *, first_step: int, num_steps: int) -> None:
        self._first_step = first_step
        self._stride = max(1, num_steps // _POINTS)
        self.points: list[tuple[int, float]] = []

    def add(self, step: int, rate: float) -> None:
        """Add the rate of an optimizer step, unless it lies between two points."""
        if (step - self._first_step) % self._stride == 0:
            self.points.append((step, rate))


def notes_of(rates: LearningRates) -> Notes:
    """Return the notes of a round that has just been trained in this process."""
    return {
        LEARNING_RATES: rates.points,
        ENVIRONMENT: _environment(),
        FINISHED: datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _environment() -> dict[str, Any]:
    """Return what does not change while the process runs."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "devices": _devices(),
        "processes": ranks.world_size(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _devices() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    return versions
