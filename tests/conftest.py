"""Settings of the whole test suite."""

import pytest
from hypothesis import settings

# Deterministic, and without a deadline: the machine may be busy with the tests' own clusters.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _caplog_of_every_level(caplog: pytest.LogCaptureFixture) -> None:
    # A LocalCluster of an earlier test raises the level of every handler of the root logger.
    caplog.handler.setLevel(0)
