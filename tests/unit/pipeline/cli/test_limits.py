"""A query that asks for any amount of time or memory is stopped with one line."""

import sys
from pathlib import Path

import pytest
from commands import attent_process
from scored_runs import scored_run

from attent_select.errors import InputError
from pipeline.cli.output.limits import bounded
from pipeline.reports.query import checked_select

CROSS = "SELECT sum(a.loss * b.loss) FROM losses a CROSS JOIN losses b CROSS JOIN losses c"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--timeout", "0.2"), "longer than 0.2 seconds"),
        (("--memory-limit", "10MiB"), "more than 0.00977 GiB of memory"),
    ],
)
def test_a_query_without_an_end_is_stopped(
    tmp_path: Path, options: tuple[str, str], reason: str
) -> None:
    run = scored_run(tmp_path / "run", [[float(row) for row in range(3000)]])
    done = attent_process("query", run, CROSS, *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr


@pytest.mark.parametrize("memory", ["much", "-1", "4 tons"])
def test_an_invalid_limit_is_an_input_error(memory: str) -> None:
    with (
        pytest.raises(InputError, match="invalid memory limit"),
        bounded(seconds=1, memory=memory, what=""),
    ):
        pass


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT {'(' * 3000}1{')' * 3000} FROM losses",
        f"SELECT {'+'.join(['loss'] * 5000)} FROM losses",
        f"SELECT {'NOT ' * 3000}true FROM losses",
        f"SELECT {'abs(' * 400}loss{')' * 400} FROM losses",
        f"SELECT '{'x' * 300_000}' FROM losses",
    ],
)
def test_a_statement_that_is_nested_deeply_is_refused(sql: str) -> None:
    limit = sys.getrecursionlimit()
    with pytest.raises(InputError, match=r"nested too deeply|characters"):
        checked_select(sql, tables=["losses"])
    assert sys.getrecursionlimit() == limit
