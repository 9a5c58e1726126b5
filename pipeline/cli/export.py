"""`attent export`: a trained model for other programs."""

from typing import Annotated, Any

import typer

from pipeline.cli.options import Run, TrustRun
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values


@command(show_values)
def export(
    *,
    run: Run,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="A new local folder.")],
    round_number: Annotated[
        int | None,
        typer.Option("--round", min=0, help="Round after which to export. Default: the last."),
    ] = None,
    trust_run: TrustRun = False,
) -> dict[str, Any]:
    """Write the trained model in the Hugging Face layout, with an adapter merged into it."""
    from pipeline.runs.export import export

    return export(run, out=out, round_number=round_number, trust_run=trust_run)
