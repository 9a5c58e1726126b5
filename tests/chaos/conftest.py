"""Faults at random moments, and long runs: `make chaos`. Larger: `make chaos CHAOS_RUNS=200`."""

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_cluster import ORDINARY, SharedCluster, shared_cluster
from small_runs import write_shards

from pipeline.cluster import Client, connect


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos")
    group.addoption(
        "--chaos-runs",
        type=int,
        default=int(os.environ.get("CHAOS_RUNS") or 0),
        help="size of the campaigns: number of kills, signals, rounds and fuzzed thousands",
    )
    group.addoption(
        "--chaos-seed",
        type=int,
        default=int(os.environ.get("CHAOS_SEED") or 0) or random.SystemRandom().randrange(10**6),
        help="seed of the campaigns; default: another one each time",
    )


def pytest_report_header(config: pytest.Config) -> str:
    seed, runs = config.getoption("--chaos-seed"), config.getoption("--chaos-runs")
    return f"chaos: --chaos-seed={seed} --chaos-runs={runs or 'small'}"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed, printed with a failure."""
    value: int = request.config.getoption("--chaos-seed")
    print(f"repeat with --chaos-seed={value}")
    return value


@pytest.fixture
def size(request: pytest.FixtureRequest) -> int:
    """The size that was asked for; 0: the small one of the test."""
    value: int = request.config.getoption("--chaos-runs")
    return value


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
