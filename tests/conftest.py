"""Settings of the whole test suite."""

import pytest
from hypothesis import settings

# Without a deadline: the machine may be busy with the tests' own clusters.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=30)
# By hand: `pytest --hypothesis-profile=thorough tests/unit`.
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _caplog_of_every_level(caplog: pytest.LogCaptureFixture) -> None:
    # A LocalCluster of an earlier test raises the level of every handler of the root logger.
    caplog.handler.setLevel(0)
