"""The only door to Dask: a cluster, and plain functions on its workers in a rolling window.

The names that everyone calls, imported on first use: selecting and planning do without Dask. No
Dask collections: a task is one picklable value in and one small value out; data never travels
through the scheduler.
"""

import importlib
from typing import TYPE_CHECKING, Any

from attent_select.extras import missing_extras_named

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.cluster.connection import cluster_at, connect, connect_when_needed
    from pipeline.cluster.window import on_every_worker, run_tasks, size

__all__ = [
    "Client",
    "cluster_at",
    "connect",
    "connect_when_needed",
    "on_every_worker",
    "run_tasks",
    "size",
]

_MODULES = {
    "Client": "distributed",
    "cluster_at": "pipeline.cluster.connection",
    "connect": "pipeline.cluster.connection",
    "connect_when_needed": "pipeline.cluster.connection",
    "on_every_worker": "pipeline.cluster.window",
    "run_tasks": "pipeline.cluster.window",
    "size": "pipeline.cluster.window",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with missing_extras_named():
        return getattr(importlib.import_module(_MODULES[name]), name)
