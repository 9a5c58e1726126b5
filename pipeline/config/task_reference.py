"""A task by its name and settings, for a process that never calls it.

The driver of a scoring job has a reference, which needs no torch; workers load the task.
"""

import functools
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_serializer

from attent_select.plugins import load_plugin

TASKS = "trainers.tasks"
TASK_METHODS = ("models", "prepare", "collate", "per_sample_loss", "evaluate")


class TaskReference(BaseModel):
    """Placeholder for a task in a configuration.

    Attributes:
        name: of the plug-in, or its dotted path.
        settings: the task's own, defaults included, as they stand in run.yaml.
        columns: of a sample, that the task reads.
        hashed: the task as digests have it (`canonical_json`).
        score_columns: that the task measures beside the losses.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    settings: dict[str, Any]
    columns: tuple[str, ...]
    hashed: dict[str, Any]
    score_columns: tuple[str, ...] = ()

    @model_serializer
    def _as_in_the_file(self) -> dict[str, Any]:
        return self.settings

    def load(self) -> Any:
        """Return the task, created once per process."""
        return _task(self.name, json.dumps(self.settings))


@functools.lru_cache(maxsize=1)
def _task(name: str, settings: str) -> Any:
    return TypeAdapter(load_plugin(TASKS, name)).validate_json(settings)
