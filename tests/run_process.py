"""`attent run` in a subprocess, killed when a condition holds."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]


def start(config: Path) -> subprocess.Popen[bytes]:
    """Start `attent run CONFIG`."""
    command = [sys.executable, "-m", "attent_select", "run", str(config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def finish(config: Path) -> None:
    """Run `attent run CONFIG` to its end."""
    process = start(config)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def kill_when(config: Path, condition: Callable[[], bool]) -> None:
    """Start `attent run CONFIG` and kill it as soon as `condition` holds."""
    process = start(config)
    deadline = monotonic() + 300
    while not condition():
        assert monotonic() < deadline, "the condition never held"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.005)  # a pause that ends early with the process
            raise AssertionError(f"ended before it could be killed: {process.stderr.read()}")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
