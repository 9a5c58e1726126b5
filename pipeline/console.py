"""What a command says: one JSON object or lines for people, errors, exit codes, progress bars.

Everything that prints. Results go to stdout, everything else to stderr, so that `--json` gives
exactly one JSON object.
"""

import base64
import contextlib
import dataclasses
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from attent_select.errors import AttentError
from attent_select.extras import missing_extras_named
from attent_select.schedule.adaptive import Decision

if TYPE_CHECKING:
    import polars as pl

R = TypeVar("R")

INTERRUPTED = 130
# Rows that people are shown of a table.
SHOWN_ROWS = 200
# Between two lines about progress in a log.
_LINE_SECONDS = 30.0


def answer(work: Callable[[], R], *, as_json: bool, show: Callable[[R], None]) -> R:
    """Runs a command's work and prints its result (returned): as JSON, or for people with `show`.

    An `AttentError` becomes one message on stderr and its exit code; an interrupt says how to go
    on. Any other exception is a defect of this program: one line says so, and with
    ATTENT_TRACEBACK=1 in the environment the traceback stands before it.
    """
    try:
        with _interruptible(), _nothing_on_stdout(), missing_extras_named():
            result = work()
            text = json.dumps(plain(result), ensure_ascii=False, default=str) if as_json else ""
    except AttentError as error:
        typer.echo(f"attent: {error}", err=True)
        if error.exit_code == INTERRUPTED:
            typer.echo(_how_to_go_on(), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo(f"attent: interrupted. {_how_to_go_on()}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001 - the last resort
        if os.environ.get("ATTENT_TRACEBACK") == "1":
            traceback.print_exc()
        message = " ".join(f"{type(error).__name__}: {error}".split())
        typer.echo(f"attent: our fault: {message}; please report it", err=True)
        raise typer.Exit(1) from None
    if not _is_first_rank():
        return result
    if as_json:
        typer.echo(text)
    else:
        show(result)
    return result


def plain(value: Any) -> Any:
    """Dataclasses and numbers as JSON has them.

    A number that is not finite becomes null, a decimal (2.5 in SQL) a number, bytes base64.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def show_values(result: Any) -> None:
    """`name: value` lines, of what there is a value for."""
    for name, value in plain(result).items():
        if value is not None:
            typer.echo(f"{name}: {_readable(value)}")


def show_rounds(result: Mapping[str, Any]) -> None:
    """A line per round, and where the last checkpoint is."""
    for round_ in result["rounds"]:
        typer.echo(describe_round(round_))
    typer.echo(f"checkpoint: {result['checkpoint']}")


def show_frame(frame: "pl.DataFrame") -> None:
    """A table of the first SHOWN_ROWS rows; where a terminal is too narrow for it, a line per
    value. Nothing is left out of a row.
    """
    import polars as pl

    shown = frame.head(SHOWN_ROWS)
    with pl.Config(
        tbl_formatting="UTF8_FULL_CONDENSED",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=1 << 15,
        fmt_str_lengths=1 << 15,
        fmt_table_cell_list_len=-1,
    ):
        text = str(shown)
    width = len(text.partition("\n")[0])
    if sys.stdout.isatty() and width > shutil.get_terminal_size().columns:
        text = "\n".join(_records(shown))
    typer.echo(text)
    if len(frame) > SHOWN_ROWS:
        say(f"the first {SHOWN_ROWS} rows: ask for fewer (LIMIT, WHERE), or for all with --json")


def _records(frame: "pl.DataFrame") -> Iterator[str]:
    longest = max(map(len, frame.columns), default=0)
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        yield f"row {number}"
        for name, value in row.items():
            text = f"{value:.6g}" if isinstance(value, float) else value
            yield f"  {name:<{longest}}  {'null' if value is None else text}"


# The evaluation's metrics that a person is shown; all are in the run's metrics.
_QUALITIES = ("eval_loss", "accuracy", "perplexity", "exact_match", "mean_iou", "rmse", "delta1")


def describe_round(round_: Mapping[str, Any]) -> str:
    """One round in one line; of the evaluation what is there."""
    qualities = [name for name in _QUALITIES if name in round_]
    measured = ", ".join(f"{name} {round_[name]:.4f}" for name in ["train_loss", *qualities])
    return (
        f"round {round_['round']} ({round_['phase']}, {round_['ratio']:.0%}): "
        f"{round_['samples_seen']:,} samples, {measured}, {round_['seconds']['total']:.1f} s"
    )


def describe_decision(decision: Decision) -> str:
    """What was decided for a round, and why, in a line each."""
    values = {
        "ratio": decision.round.ratio,
        "explore": decision.explore,
        "rescore": decision.rescore,
    }
    lines = [f"  {name} {value:.1%}: {decision.reasons[name]}" for name, value in values.items()]
    return "\n".join([f"round {decision.round.number} was decided:", *lines])


class Advance(Protocol):
    """Adds to a progress bar; `note` then stands beside it."""

    def __call__(self, amount: int, note: str = "", /) -> None: ...


@contextlib.contextmanager
def progress(title: str, *, total: int, unit: str) -> Iterator[Advance]:
    """A progress bar on stderr, or where that is no terminal a line now and then."""
    if not (sys.stderr.isatty() and _is_first_rank()):
        yield _lines(title, total=total, unit=unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(f"{title} [progress.percentage]{{task.percentage:>3.0f}}%"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda amount, note="", /: bar.update(task, advance=amount, note=note)


def _lines(title: str, *, total: int, unit: str) -> Advance:
    done, started = 0, monotonic()
    last = started

    def advance(amount: int, note: str = "", /) -> None:
        nonlocal done, last
        done += amount
        now = monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            left = (now - started) * (total - done) / done
            say(
                f"{title} {done:,} of {total:,} {unit}, about {left:,.0f} s left; {note}".rstrip(
                    "; "
                )
            )

    return advance


@contextlib.contextmanager
def stage(title: str) -> Iterator[None]:
    """Says on stderr, when that is a terminal, what goes on now, while it does."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(title):
        yield


def say(message: str) -> None:
    """A line for people, on stderr."""
    if _is_first_rank():
        typer.echo(message, err=True)


def _is_first_rank() -> bool:
    """Of a launcher's processes (torchrun) only the first says more than what went wrong."""
    return os.environ.get("RANK", "0") == "0"


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items()) or "none"
    return str(value)


def _how_to_go_on() -> str:
    return f"To go on: {shlex.join(['attent', *sys.argv[1:]])}"


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """What the work prints goes to stderr: also what other processes print, that inherit fd 1."""
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
    """A polite kill (batch systems send SIGTERM) ends a command like Ctrl-C does."""

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
