"""The options that every command has: messages, log file, JSON."""

import errno
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli.app import options
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

LOG = logging.getLogger("attent.test")


@command(show_values)
def work(*, amount: int = 3) -> dict[str, Any]:
    """Log a message of each level."""
    LOG.debug("a detail")
    LOG.info("a message")
    LOG.warning("a problem")
    sys.stdout.write("noise\n")
    return {"amount": amount}


@command(show_values, exit_code=lambda result: 2 if result["failed"] else 0)
def check() -> dict[str, Any]:
    """Find a problem."""
    return {"failed": True}


@command(show_values)
def fill() -> dict[str, Any]:
    """Fail as a library does that writes to a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")


@command(show_values)
def repeat() -> dict[str, Any]:
    """Log messages again and again."""
    for row in (1, 2):
        LOG.warning("a problem")
        LOG.warning("row %d is bad", row)
        LOG.info("a message")
    return {}


def attent(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(options)
    app.command()(work)
    app.command()(check)
    app.command()(fill)
    app.command()(repeat)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["work"], ["a message", "warning: a problem"]),
        (["work", "--quiet"], ["warning: a problem"]),
        (["-q", "work"], ["warning: a problem"]),
        (["-v", "work", "-q"], ["warning: a problem"]),
    ],
)
def test_messages_go_to_stderr_as_the_options_say(
    arguments: list[str], messages: list[str]
) -> None:
    done = attent(*arguments)
    assert done.exit_code == 0
    assert [line for line in done.stderr.splitlines() if line != "noise"] == messages
    assert done.stdout == "amount: 3\n"


def test_a_warning_is_printed_once_and_logged_each_time(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    printed = attent("repeat", "--log-file", str(file)).stderr.splitlines()
    warnings = ["warning: a problem", "warning: row 1 is bad", "warning: row 2 is bad"]
    assert [line for line in printed if line.startswith("warning")] == warnings
    assert printed.count("a message") == 2
    assert file.read_text().count("a problem") == 2


@pytest.mark.parametrize("arguments", [["-v", "work"], ["work", "--verbose"]])
def test_verbose_prints_debug_messages_with_time_and_logger(arguments: list[str]) -> None:
    done = attent(*arguments)
    assert "DEBUG attent.test: a detail" in done.stderr


def test_a_log_file_gets_every_message_and_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    attent("work", "--quiet", "--log-file", str(file))
    attent("--log-file", str(file), "work")
    lines = file.read_text().splitlines()
    assert len(lines) == 6
    assert lines[0].endswith("DEBUG attent.test: a detail")


def test_a_log_file_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    done = attent("work", "--log-file", str(tmp_path / "no" / "log.txt"))
    assert done.exit_code == 2
    assert "attent: --log-file" in done.stderr


def test_json_is_the_only_thing_on_stdout() -> None:
    done = attent("work", "--amount", "4", "--json", "-v")
    assert json.loads(done.stdout) == {"amount": 4}


def test_other_ranks_print_neither_messages_nor_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    done = attent("work")
    assert done.stdout == ""
    assert "problem" not in done.stderr


def test_a_command_leaves_no_handler_behind() -> None:
    before = logging.getLogger("attent").handlers[:]
    attent("work")
    assert logging.getLogger("attent").handlers == before


def test_a_result_can_mean_an_exit_code() -> None:
    assert attent("check").exit_code == 2


def test_a_full_disk_is_explained_wherever_a_library_meets_it() -> None:
    done = attent("fill")
    assert done.exit_code == 2
    assert "model.safetensors was not written: no space left on device" in done.stderr
    assert "internal error" not in done.stderr
