"""What tests of whole stages share."""

from cluster_fixtures import client, one_cluster, shards, shared  # noqa: F401
