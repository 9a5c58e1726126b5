"""Run `attent COMMAND` in a subprocess or in this process, and read its answer."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import process_copies
from typer.testing import CliRunner

import pipeline.cli
from pipeline.cli.app import app

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def attent(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `attent ARGUMENTS` in this process, which has imported everything already."""
    command = ["attent", *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", command),
        patch.dict(os.environ),  # it decides on colours by variables
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code: int | str | None = 0
        try:
            pipeline.cli.main()
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess(command, int(code or 0), out.getvalue(), errors.getvalue())


def attent_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `attent ARGUMENTS` in a subprocess."""
    return process_copies.run(process_copies.ATTENT, *arguments, cwd=cwd or ROOT)


def the_object(stdout: str) -> dict[str, Any]:
    """What a command with `--json` prints: one JSON object and nothing else."""
    assert len(stdout.splitlines()) == 1
    found: dict[str, Any] = json.loads(stdout)
    return found


def answer(*arguments: object) -> dict[str, Any]:
    """Answer of a command in a subprocess."""
    done = attent_process(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return the_object(done.stdout)


def answer_here(*arguments: object) -> dict[str, Any]:
    """The answer of a command in this process, which has imported everything already."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr
    return the_object(done.stdout)
