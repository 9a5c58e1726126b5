"""Settings as canonical JSON, the same text in every process: what digests are made from."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.task_reference import TaskReference


def canonical_json(value: Any) -> str:
    """Return plain values and settings dataclasses as JSON with sorted keys.

    Settings that are newer than stored digests (`trainers.task.NEWER`) are left out at their
    defaults.
    """
    return json.dumps(value, sort_keys=True, default=_plain)


def plain_values(values: Mapping[str, Any]) -> Any:
    """Return `values` as they come back from canonical JSON, to be stored and compared."""
    return json.loads(canonical_json(dict(values)))


def _plain(value: Any) -> Any:
    if isinstance(value, TaskReference):
        return value.hashed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        newer = {
            each.name
            for each in dataclasses.fields(value)
            if each.metadata.get("is_newer") and getattr(value, each.name) == each.default
        }
        fields = dataclasses.asdict(value).items()
        return {"class": type(value).__qualname__, **{k: v for k, v in fields if k not in newer}}
    raise TypeError(f"{value!r} cannot be written as JSON")
