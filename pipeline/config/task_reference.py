"""A task by its name and settings, for a process that never calls it.

What the driver of a scoring job knows of a task without torch, and loading it where it is
called.
"""

import functools
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_serializer

from attent_select.plugins import load_plugin

TASKS = "trainers.tasks"


class TaskReference(BaseModel):
    """Stands in a configuration where the task itself would.

    Attributes:
        name: of the plug-in, or its dotted path.
        settings: the task's own, defaults included, as they stand in run.yaml.
        columns: of a sample, that the task reads.
        hashed: the task as digests have it (`canonical_json`).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    settings: dict[str, Any]
    columns: tuple[str, ...]
    hashed: dict[str, Any]

    @model_serializer
    def _as_in_the_file(self) -> dict[str, Any]:
        return self.settings

    def load(self) -> Any:
        """The task, made once in a process."""
        return _task(self.name, json.dumps(self.settings))


@functools.lru_cache(maxsize=1)
def _task(name: str, settings: str) -> Any:
    return TypeAdapter(load_plugin(TASKS, name)).validate_json(settings)
