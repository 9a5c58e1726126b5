"""Processes that begin with everything imported, without the seconds that imports take.

The first process imports and does nothing else, so that its copies (forks) are sound. A copy is a
process like any other: it can be killed, and has its variables, its output and its exit code. The
workers of its local cluster are copies of a second process, that of all copies.
"""

import atexit
import contextlib
import faulthandler
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from time import monotonic
from typing import IO, Any

ROOT = Path(__file__).parents[1]
ATTENT = ROOT / "attent_select" / "__main__.py"
_IMPORTS = (
    *("torch", "transformers", "accelerate", "distributed", "polars", "pyarrow.parquet"),
    *("pipeline.cli.app", "pipeline.stages", "pipeline.cluster", "trainers.tasks"),
    *("trainers.fitting.training_round", "pipeline.training.train_stage", "torch.distributed"),
    *("trainers.hf.models", "trainers.hf.training_loop", "transformers.modeling_utils"),
    *("pipeline.scoring.driver", "pipeline.annotation.make", "pipeline.cluster.connection"),
)
_ENDED = "ended"


@dataclass(frozen=True)
class Copy:
    """A running copy."""

    copies: "Copies"
    pid: int
    output: Path

    @property
    def returncode(self) -> int | None:
        return self.copies.wait(self.pid, seconds=0)

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> str:
        """Wait until it has ended; return what it printed."""
        assert self.copies.wait(self.pid) is not None, "it hangs"
        return self.output.read_text(errors="replace")


class Copies:
    """Starts copies and collects their exit codes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests, self._answers = process.stdin, process.stdout
        self._codes: dict[int, int] = {}

    def start(
        self,
        *arguments: object,
        output: Path,
        errors: Path | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> int:
        """Run a program (a path and its arguments) in a copy; return its pid.

        The copy leads a session, works in `cwd` and has the variables `environment` (default: of
        this process). What it prints is in `output`, stderr in `errors` if that is given.
        """
        request = {
            "argv": [*map(str, arguments)],
            "outputs": [str(path) for path in (output, errors) if path is not None],
            "environment": dict(os.environ if environment is None else environment),
            "cwd": str(cwd),
        }
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        while True:
            kind, *numbers = self._answers.readline().decode().split()
            if kind != _ENDED:
                return int(numbers[0])
            self._codes[int(numbers[0])] = int(numbers[1])

    def wait(self, pid: int, *, seconds: float = 600) -> int | None:
        """Return the exit code, negative for a signal; None if it has not ended by then."""
        deadline = monotonic() + seconds
        while pid not in self._codes:
            left = max(0.0, deadline - monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                return None
            _, number, code = self._answers.readline().decode().split()
            self._codes[int(number)] = int(code)
        return self._codes[pid]


@contextlib.contextmanager
def started() -> Iterator[Copies]:
    """Import everything in a process to copy."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield Copies(process)
    finally:
        process.kill()
        process.communicate()


@functools.cache
def copies() -> Copies:
    """Return the copies of this process, which end with it."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(started())


def run(
    *arguments: object, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program (a path and its arguments) to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        pid = copies().start(
            *arguments, output=output, errors=errors, environment=environment, cwd=cwd
        )
        code = copies().wait(pid)
        assert code is not None, f"{arguments} hangs"
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())


class _Server:
    """The process that is copied."""

    def __init__(self, requests: int, answers: IO[bytes]) -> None:
        self._requests, self._answers = requests, answers
        # By descriptor: that a process has ended, and what it prints.
        self._ended: dict[int, tuple[int, list[int]]] = {}
        self._printing: dict[int, IO[bytes]] = {}

    def serve(self) -> None:
        pending = b""
        while True:
            ready = select.select([self._requests, *self._ended, *self._printing], [], [])[0]
            for descriptor in self._printing.keys() & set(ready):
                self._copy_output(descriptor)
            for descriptor in self._ended.keys() & set(ready):
                self._end(descriptor)
            if self._requests in ready:
                chunk = os.read(self._requests, 1 << 20)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._start(json.loads(line))

    def _start(self, request: dict[str, list[str]]) -> None:
        pipes = [os.pipe() for _ in request["outputs"]]
        pid = os.fork()
        if pid == 0:
            _become(request, outputs=[write_end for _, write_end in pipes])
        for (read_end, write_end), path in zip(pipes, request["outputs"], strict=True):
            os.close(write_end)
            os.set_blocking(read_end, False)
            self._printing[read_end] = Path(path).open("wb", buffering=0)  # noqa: SIM115
        self._ended[os.pidfd_open(pid)] = pid, [read_end for read_end, _ in pipes]
        self._answer(f"started {pid}")

    def _copy_output(self, descriptor: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(descriptor, 1 << 16):
                self._printing[descriptor].write(chunk)
            self._close(descriptor)

    def _end(self, descriptor: int) -> None:
        pid, outputs = self._ended.pop(descriptor)
        os.close(descriptor)
        for output in outputs:
            if output in self._printing:
                self._copy_output(output)
            if output in self._printing:  # of a process that it started
                self._close(output)
        status = os.waitpid(pid, 0)[1]
        self._answer(f"{_ENDED} {pid} {os.waitstatus_to_exitcode(status)}")

    def _close(self, descriptor: int) -> None:
        self._printing.pop(descriptor).close()
        os.close(descriptor)

    def _answer(self, line: str) -> None:
        self._answers.write(line.encode() + b"\n")
        self._answers.flush()


def _become(request: dict[str, Any], *, outputs: list[int]) -> None:
    """Run a program as the main module of this copy, and end."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A pipe: the size of files may be limited.
    os.dup2(outputs[0], 1)
    os.dup2(outputs[-1], 2)
    faulthandler.enable()
    # Asking whether it runs would fail: it is not a child of a copy.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    forkserver.ensure_running = forkserver._forkserver.ensure_running
    argv = request["argv"]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = argv
    sys.path[:0] = [str(Path(argv[0]).parent)]
    code: int | str | None = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    # As an interpreter that ends: join threads, run exit handlers, flush.
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def main() -> None:
    # A background job of a script ignores it, and so would the copies.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what imports and workers print is no answer
    for name in _IMPORTS:
        importlib.import_module(name)
    start_copied_workers()
    _Server(0, answers).serve()


def start_copied_workers() -> None:
    """Start the process whose copies are the workers."""
    import dask

    from pipeline.cluster import worker_processes

    with dask.config.set(worker_processes.dask_config()):
        worker_processes.environment()


if __name__ == "__main__":
    main()
