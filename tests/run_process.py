"""`attent run` in a separate process, killed when a condition holds."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from process_copies import ATTENT, copies


def start(config: Path) -> int:
    """Start `attent run CONFIG`; return its pid."""
    return copies().start(ATTENT, "run", config, output=_output(config))


def finish(config: Path) -> None:
    """Run `attent run CONFIG` to its end."""
    assert copies().wait(start(config)) == 0, _output(config).read_text()


def kill_when(config: Path, condition: Callable[[], bool]) -> None:
    """Start `attent run CONFIG` and kill it as soon as `condition` holds."""
    pid = start(config)
    deadline = monotonic() + 300
    while not condition():
        assert monotonic() < deadline, "the condition never held"
        # A pause that ends early with the process.
        code = copies().wait(pid, seconds=0.005)
        assert code is None, f"ended before it could be killed: {_output(config).read_text()}"
    os.kill(pid, signal.SIGKILL)
    copies().wait(pid)


def _output(config: Path) -> Path:
    return config.with_suffix(".output")
