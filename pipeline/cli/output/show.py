"""Results for people: values, rounds and tables on stdout."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.output.plain import plain

if TYPE_CHECKING:
    import polars as pl

    from pipeline.doctor.checks import Diagnosis
    from pipeline.pilot.command import PilotResult

# Rows of a table that are shown.
SHOWN_ROWS = 200


def show_values(result: Any) -> None:
    """Print a line `name: value` for each value that is not None."""
    for name, value in plain(result).items():
        if value is not None:
            typer.echo(f"{name}: {_readable(value)}")


def show_rounds(result: Mapping[str, Any]) -> None:
    """Print the rounds in all, the last one, and the URL of the last checkpoint.

    The log has shown every round of this process when it ended.
    """
    from pipeline.descriptions import describe_round, describe_rounds

    rounds = result["rounds"]
    if len(rounds) > 1:
        typer.echo(describe_rounds(rounds))
    for round_ in rounds[-1:]:
        typer.echo(describe_round(round_))
    typer.echo(f"checkpoint: {result['checkpoint']}")


def show_lines(result: "PilotResult") -> None:
    """Print a result that describes itself in lines."""
    for line in result.lines():
        typer.echo(line)


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    """Print a line per check, and the estimate of a run's cost."""
    for finding in diagnosis.findings:
        typer.echo(f"{'ok    ' if finding.ok else 'FAILED'} {finding.name}: {finding.detail}")
    if diagnosis.estimate is not None:
        for line in diagnosis.estimate.lines():
            typer.echo(line)


def show_frame(frame: "pl.DataFrame") -> None:
    """Print the first SHOWN_ROWS rows as a table.

    Where a terminal is too narrow for the table, print a line per value. No value is shortened.
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
        typer.echo(
            f"Only the first {SHOWN_ROWS} rows are shown. Use LIMIT or WHERE to select fewer, or "
            "--json for all.",
            err=True,
        )


def _records(frame: "pl.DataFrame") -> Iterator[str]:
    longest = max(map(len, frame.columns), default=0)
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        yield f"row {number}"
        for name, value in row.items():
            text = f"{value:.6g}" if isinstance(value, float) else value
            yield f"  {name:<{longest}}  {'null' if value is None else text}"


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items()) or "none"
    return str(value)
