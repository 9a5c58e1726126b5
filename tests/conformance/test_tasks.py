"""Every task in `trainers/tasks/` passes the conformance suite of `trainers.testing`."""

from collections.abc import Sequence
from typing import Any

import pytest
from task_cases import CASES, TaskCase

from attent_select.plugins import plugin_names
from catalogs.shard_format import Sample
from trainers.task import Task
from trainers.testing import TaskConformance
from trainers.testing.task_conformance import ReferenceLoss

NAMES = plugin_names("trainers.tasks")


def test_every_task_has_a_case() -> None:
    assert set(CASES) == set(NAMES)


class TestTasks(TaskConformance):
    @pytest.fixture(scope="class", params=NAMES)
    def case(
        self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> TaskCase:
        return CASES[request.param](tmp_path_factory.mktemp(request.param))

    @pytest.fixture(scope="class")
    def task(self, case: TaskCase) -> Task:
        return case.task

    @pytest.fixture(scope="class")
    def samples(self, case: TaskCase) -> Sequence[Sample]:
        return case.samples

    @pytest.fixture(scope="class")
    def model_settings(self, case: TaskCase) -> dict[str, Any]:
        return case.model_settings

    @pytest.fixture(scope="class")
    def bad_samples(self, case: TaskCase) -> Sequence[tuple[Sample, str]]:
        assert case.bad_samples
        return case.bad_samples

    @pytest.fixture(scope="class")
    def num_units(self, case: TaskCase) -> Sequence[int]:
        return case.num_units

    @pytest.fixture(scope="class")
    def reference_loss(self, case: TaskCase) -> ReferenceLoss | None:
        return case.reference_loss

    @pytest.fixture(scope="class")
    def unused_parameters(self, case: TaskCase) -> Sequence[str]:
        return case.unused_parameters
