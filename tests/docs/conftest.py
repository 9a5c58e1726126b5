"""What tests of the documentation share with those of whole stages."""

import pytest
from cluster_fixtures import client, one_cluster, shards, shared  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def _commands_share_a_cluster(one_cluster: None) -> None:  # noqa: F811
    """Starting another one for a command takes seconds."""
