"""No mutated file or text makes a door fail in another way than with an error of ours."""

from pathlib import Path

import fuzz_doors
import pytest

DOORS = ("tar", "footer", "index", "config", "condition", "query")
EXECUTIONS = 1_500


@pytest.mark.parametrize("name", DOORS)
def test_a_door_answers_any_bytes_with_a_result_or_an_error_of_ours(
    name: str, seed: int, size: int, tmp_path: Path
) -> None:
    door = fuzz_doors.doors(tmp_path)[name]
    executions = size * 1000 or EXECUTIONS
    assert fuzz_doors.fuzz(door, name=name, seed=seed, executions=executions) == []
