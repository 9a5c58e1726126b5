"""`attent doctor`: checks before anything is spent."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Scheduler, Set
from pipeline.cli.output.command import command

if TYPE_CHECKING:
    from pipeline.doctor.checks import Diagnosis


def _show(diagnosis: "Diagnosis") -> None:
    for finding in diagnosis.findings:
        typer.echo(f"{'ok    ' if finding.ok else 'FAILED'} {finding.name}: {finding.detail}")
    if diagnosis.estimate is not None:
        for line in diagnosis.estimate.lines():
            typer.echo(line)


@command(_show, exit_code=lambda diagnosis: 0 if diagnosis.ok else 2)
def doctor(
    *,
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.yaml]", help="A configuration, or a run.")
    ] = None,
    scheduler: Scheduler = None,
    overrides: Set = None,
) -> "Diagnosis":
    """Check the environment, storage, cluster and configuration, and estimate a run's cost."""
    from pipeline.doctor.checks import examine

    return examine(config, scheduler=scheduler, overrides=overrides or ())
