"""One local cluster for the tests of a process: starting one and its imports takes seconds.

A command that would start an ordinary local cluster gets this one. A test that is about clusters,
or whose workers need other variables or packages, gets a cluster of its own.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

# Workers begin with what they need if it is imported here.
import pipeline.annotation.make
import pipeline.scoring.driver  # noqa: F401
import trainers.tasks  # noqa: F401
from pipeline.cluster import connection, new_cluster
from pipeline.config.cluster_settings import ClusterSettings

WORKERS = 2
ORDINARY = ClusterSettings(workers=WORKERS)
# Settings that do not concern the processes.
_OF_THE_DRIVER = {
    "workers": WORKERS,
    **{
        name: getattr(ORDINARY, name)
        for name in (
            "window",
            "patience_seconds",
            "connect_timeout_seconds",
            "worker_timeout_seconds",
        )
    },
}

_OF_LIBRARIES = (
    *("PYTEST_CURRENT_TEST", "__DASK_PARENT_PID", "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "_RJEM_MALLOC_CONF"),
    *("TORCHINDUCTOR_", "ACCELERATE_", "KMP_"),
)


class SharedCluster:
    """The cluster, started when it is first needed."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._cluster: Any = None
        self._surroundings = _surroundings()

    @contextmanager
    def start(self, settings: ClusterSettings) -> Iterator[Any]:
        """Replace `start_cluster`."""
        if not self._is_ordinary(settings) or self.changes():
            with new_cluster.start_cluster(settings) as own:
                yield own
            return
        if self._cluster is None:
            self._cluster = self._stack.enter_context(new_cluster.start_cluster(ORDINARY))
        yield self._cluster

    def changes(self) -> set[str]:
        """Return what a worker would inherit and the shared ones did not, or the reverse."""
        return self._surroundings ^ _surroundings()

    @contextmanager
    def used_by_commands(self) -> Iterator[None]:
        """Let commands in this process use it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "start_cluster", self.start)
            yield

    @staticmethod
    def _is_ordinary(settings: ClusterSettings) -> bool:
        is_usual_size = settings.workers in (None, WORKERS)
        return is_usual_size and settings.model_copy(update=_OF_THE_DRIVER) == ORDINARY


def _surroundings() -> set[str]:
    """What a worker inherits, without what libraries set when they are used."""
    variables = {f"{k}={v}" for k, v in os.environ.items() if not k.startswith(_OF_LIBRARIES)}
    return variables | {path for path in sys.path if "dask-scratch-space" not in path}


@contextmanager
def shared_cluster() -> Iterator[SharedCluster]:
    """Yield a cluster that ends with the context."""
    with ExitStack() as stack:
        yield SharedCluster(stack)
