"""A store, a scheduler, workers and drivers in separate processes, for tests that kill them."""

import contextlib
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from process_copies import ATTENT, ROOT, Copy, copies
from servers import BUCKET, S3Server, free_ports, rclone_process

WORKERS = ("worker 0", "worker 1")


class Cluster:
    """A store, a scheduler, two workers and drivers, each in a subprocess."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        (folder / BUCKET).mkdir(parents=True)
        self._ports = free_ports(2)
        self.server = S3Server(f"http://127.0.0.1:{self._ports[0]}")
        self.address = f"tcp://127.0.0.1:{self._ports[1]}"
        python_path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        own = {"PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
        self.environment = os.environ | self.server.environment | own
        self.running: dict[str, subprocess.Popen[bytes] | Copy] = {}

    def start(self, name: str) -> None:
        if name == "store":
            address = f"127.0.0.1:{self._ports[0]}"
            self.running[name] = self._stack.enter_context(
                rclone_process(self.folder, address=address)
            )
            until(lambda: _answers(self._ports[0]))
        elif name == "scheduler":
            port = str(self._ports[1])
            self._dask(name, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
            until(lambda: _answers(self._ports[1]))
        else:
            options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60"]
            self._dask(name, "worker", self.address, *options)

    def driver(self, *arguments: str) -> Copy:
        return self.copy(ATTENT, *arguments)

    def copy(self, *arguments: object) -> Copy:
        """Start a program, which ends with the cluster."""
        output = self.folder / f"output-{uuid.uuid4().hex}"
        pid = copies().start(*arguments, output=output, environment=self.environment)
        copy = Copy(copies(), pid, output)
        self._stack.callback(copy.kill)
        return copy

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def restart(self, name: str) -> None:
        if self.running[name].poll() is not None:
            self.start(name)

    def _dask(self, name: str, *arguments: str) -> None:
        self.running[name] = self.copy(ROOT / "tests" / "dask_process.py", *arguments)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(condition: Callable[[], bool], *, seconds: float = 600) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it never came so far"
        threading.Event().wait(0.01)


def wait_for_spans(spans: Path, count: int, *, driver: Copy) -> bool:
    """Wait for a number of finished spans; return whether the driver still runs."""
    until(lambda: len(finished(spans)) >= count or driver.poll() is not None)
    return driver.poll() is None


def finished(spans: Path) -> dict[str, int]:
    """The span files that are there, with the times they were written at."""
    found = {}
    for path in spans.glob("*.parquet") if spans.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.stat().st_mtime_ns
    return found
