"""What tests of whole stages share: one small Dask cluster, and digits at rest."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_runs import write_shards

from pipeline.cluster import Client, connect
from pipeline.config.cluster_settings import ClusterSettings


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Two workers, started once: that takes seconds."""
    with connect(ClusterSettings(workers=2)) as connected:
        yield connected


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of `small_runs`."""
    return write_shards(tmp_path_factory.mktemp("shards"))
