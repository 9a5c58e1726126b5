"""The method that measures the losses of a round: its dtype, as workers have it, and its proxy."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from catalogs.losses.method import method_of
from pipeline.cluster import Client, on_every_worker
from pipeline.config.task_reference import TaskReference
from trainers.settings import ScoringSettings


def with_dtype(
    settings: ScoringSettings, client: Client, *, before: Mapping[str, Any]
) -> ScoringSettings:
    """Return the settings with a dtype: all rounds of a run have the same.

    Without a configured one it is that of the losses `before`, by their provenance. The first time
    it is bfloat16 if every worker computes it fast.
    """
    if settings.dtype is not None:
        return settings
    if before:
        return replace(settings, dtype=method_of(before)["dtype"])
    answers = on_every_worker(client, is_bfloat16_fast).values()
    is_fast = bool(answers) and all(answer is True for answer in answers)
    return replace(settings, dtype="bfloat16" if is_fast else "float32")


def is_bfloat16_fast() -> bool:
    """Return what a worker reports about its device."""
    from trainers.scoring.precision import has_fast_bfloat16

    return has_fast_bfloat16()


def proxy_digests(settings: ScoringSettings, task: Any) -> dict[str, str] | None:
    """Return the digests of the files of the proxy and its tokenizer; None without a proxy."""
    if settings.proxy is None:
        return None
    from trainers.scoring.saved_model import SavedModel

    loaded = task.load() if isinstance(task, TaskReference) else task
    return SavedModel(settings.proxy, loaded).digests()
