"""`attent query`: SQL over the tables of a run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import Run, TrustRun, trust_formats
from pipeline.cli.output.command import Json, command
from pipeline.cli.output.limits import bounded
from pipeline.cli.output.show import SHOWN_ROWS, show_frame

if TYPE_CHECKING:
    import polars as pl


def _columns_and_rows(frame: "pl.DataFrame") -> dict[str, Any]:
    return {"columns": frame.columns, "rows": frame.rows()}


@command(show_frame, to_json=_columns_and_rows)
def query(
    *,
    run: Run,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT or WITH statement.")],
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time limit; 0: no limit.")
    ] = 600.0,
    memory_limit: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory limit of the process; 0: no limit.")
    ] = "4GiB",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Rows to print. Default: 200; with --json all."),
    ] = None,
    as_json: Json = False,
    trust_run: TrustRun = False,
) -> "pl.DataFrame":
    """Query the tables of a run or a corpus.

    Tables: samples (losses and annotations of every sample), losses, pools, index, annotations (a
    list), corpus (the shards), metrics (a row per round), scoring, decisions, quotas, antk.
    """
    from pipeline.reports.query import query

    trust_formats(run, trust_run=trust_run)
    with bounded(seconds=timeout, memory=memory_limit, what="--timeout or --memory-limit"):
        # One row more than is shown tells whether there are more.
        return query(run, sql, limit=limit or (None if as_json else SHOWN_ROWS + 1))
