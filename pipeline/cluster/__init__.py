"""The only door to Dask: a cluster, and plain functions on its workers in a rolling window.

The names that everyone calls. No Dask collections: a task is one picklable value in and one
small value out; data never travels through the scheduler.
"""

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
