"""Conformance suites for tasks and kinds of annotations, for the tests of packages that define one.

They need pytest.
"""

import pytest

# Before the import: failed assertions then show the values that they compare.
pytest.register_assert_rewrite(
    "trainers.testing.annotation_conformance", "trainers.testing.task_conformance"
)

from trainers.testing.annotation_conformance import AnnotationConformance  # noqa: E402
from trainers.testing.task_conformance import TaskConformance  # noqa: E402

__all__ = ["AnnotationConformance", "TaskConformance"]
