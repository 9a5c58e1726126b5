"""Fixtures of tests of whole stages: one small Dask cluster in each process, and digits at rest."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_cluster import ORDINARY, SharedCluster, shared_cluster
from small_runs import write_shards

from pipeline.cluster import Client, connect


@pytest.fixture(scope="session")
def shared() -> Iterator[SharedCluster]:
    """The local cluster of this process."""
    with shared_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def one_cluster(shared: SharedCluster) -> Iterator[None]:
    """Let the commands of a module, which run in this process, share the cluster."""
    with shared.used_by_commands():
        yield


@pytest.fixture(scope="session")
def client(shared: SharedCluster) -> Iterator[Client]:
    """Two workers, started once: that takes seconds."""
    with contextlib.ExitStack() as stack:
        with shared.used_by_commands():
            connected = stack.enter_context(connect(ORDINARY))
        yield connected


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of `small_runs`."""
    return write_shards(tmp_path_factory.mktemp("shards"))
