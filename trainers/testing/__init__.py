"""Conformance suite for tasks, for the tests of packages that define one. Needs pytest."""

import pytest

# Before the import: failed assertions then show the values that they compare.
pytest.register_assert_rewrite("trainers.testing.task_conformance")

from trainers.testing.task_conformance import TaskConformance  # noqa: E402

__all__ = ["TaskConformance"]
