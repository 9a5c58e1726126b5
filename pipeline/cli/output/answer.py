"""Running the work of a command: its result, its errors, its exit code.

The result goes to stdout and everything else to stderr, so that `--json` prints exactly one JSON
object.
"""

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import typer

from attent_select.errors import AttentError, is_panic
from attent_select.extras import missing_extras_named
from pipeline.cli.output.logs import LogOptions, logging_as
from pipeline.cli.output.plain import plain
from pipeline.cli.output.terminal import Terminal
from pipeline.progress import is_first_rank, reporting

R = TypeVar("R")

INTERRUPTED = 130


def answer(
    work: Callable[[], R],
    *,
    as_json: bool,
    show: Callable[[R], None],
    to_json: Callable[[R], Any] = lambda result: result,
    log: LogOptions | None = None,
) -> R:
    """Run a command's work, print its result and return it.

    An `AttentError` becomes one message on stderr and its exit code; an interrupted command says
    how to resume. Any other exception is a bug: one line says so and where, after the traceback
    if ATTENT_TRACEBACK=1 is set.
    """
    try:
        with (
            _interruptible(),
            _nothing_on_stdout(),
            _reporting(log or LogOptions()),
            missing_extras_named(),
            _full_disk_explained(),
        ):
            result = work()
            text = _json(to_json(result)) if as_json else ""
    except AttentError as error:
        typer.echo(f"attent: {error}", err=True)
        if error.exit_code == INTERRUPTED:
            typer.echo(_resume_with(), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo(f"attent: interrupted. {_resume_with()}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):  # a panic is none
            raise
        if os.environ.get("ATTENT_TRACEBACK") == "1":
            traceback.print_exc()
        typer.echo(_internal_error(error), err=True)
        raise typer.Exit(1) from None
    if is_first_rank():
        if as_json:
            typer.echo(text)
        else:
            show(result)
    return result


def _internal_error(error: BaseException) -> str:
    """Return one line with the place of the error, without the folder of the installation."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}"
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return f"attent: internal error: {message} at {place} (this is a bug; please report it)"


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False, default=str)


def _resume_with() -> str:
    return f"Resume with: {shlex.join(['attent', *sys.argv[1:]])}"


@contextlib.contextmanager
def _full_disk_explained() -> Iterator[None]:
    """Explain a full disk also where a library writes a file."""
    try:
        yield
    except OSError as error:
        # Imported late: a command must start fast.
        from catalogs.storage.objects import explain_full_disk

        with explain_full_disk(str(error.filename or "a file")):
            raise


@contextlib.contextmanager
def _reporting(log: LogOptions) -> Iterator[None]:
    """Print log messages, and show progress where stderr is a terminal."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(logging_as(log))
        if sys.stderr.isatty() and not log.quiet:
            stack.enter_context(reporting(Terminal()))
        yield


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """Send what the work prints to stderr, also what subprocesses print that inherit fd 1."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, interrupt a command as Ctrl-C does."""

    def interrupt(signum: int, frame: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
