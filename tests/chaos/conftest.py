"""Faults at random moments, and long runs: `make chaos`. Larger: `make chaos CHAOS_RUNS=200`."""

import os
import random
from collections.abc import Iterator

import campaign as campaigns
import pytest
from cluster_fixtures import client, one_cluster, shards, shared  # noqa: F401


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
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[campaigns.Campaign]:
    """A store, a scheduler and workers that may be killed, started once."""
    with campaigns.started(tmp_path_factory.mktemp("campaign")) as running:
        yield running
