"""A local cluster for the tests of benchmarks that run whole pilots."""

from cluster_fixtures import client, one_cluster, shards, shared  # noqa: F401
