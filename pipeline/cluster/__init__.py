"""The only door to Dask: a cluster, and plain functions on its workers in a rolling window.

Public names are imported on first use: selection and planning need no Dask. There are no Dask
collections: a task is one picklable value in and one small value out, and data never travels
through the scheduler.
"""

import importlib
from typing import TYPE_CHECKING, Any

from attent_select.extras import missing_extras_named

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.cluster.connection import (
        cluster_at,
        connect,
        connect_when_needed,
        scheduler_address,
    )
    from pipeline.cluster.size import cluster_size, on_every_worker
    from pipeline.cluster.tasks import run_tasks

__all__ = [
    "Client",
    "cluster_at",
    "cluster_size",
    "connect",
    "connect_when_needed",
    "on_every_worker",
    "run_tasks",
    "scheduler_address",
]

_MODULES = {
    "Client": "distributed",
    "cluster_at": "pipeline.cluster.connection",
    "connect": "pipeline.cluster.connection",
    "connect_when_needed": "pipeline.cluster.connection",
    "cluster_size": "pipeline.cluster.size",
    "on_every_worker": "pipeline.cluster.size",
    "run_tasks": "pipeline.cluster.tasks",
    "scheduler_address": "pipeline.cluster.connection",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with missing_extras_named():
        return getattr(importlib.import_module(_MODULES[name]), name)
