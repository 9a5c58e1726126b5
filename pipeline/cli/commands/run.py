"""`attent pilot`, `attent run` and `attent train`: a pilot for a run, all of its rounds, or one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import Round, RunOrConfig, Scheduler, Set, TrustRun
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_diagnosis, show_lines, show_rounds

if TYPE_CHECKING:
    from pipeline.doctor.checks import Diagnosis
    from pipeline.pilot.command import PilotResult


Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Compare only this one: yours, hard, soft or an annotation; repeatable.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="Folder of the pilot. Default: that of the run, with -pilot."
    ),
]


def _show(result: "dict[str, Any] | Diagnosis") -> None:
    if isinstance(result, dict):
        show_rounds(result)
        typer.echo(f"Next: attent report {result['run']}")
    else:
        show_diagnosis(result)


def _exit_code(result: "dict[str, Any] | Diagnosis") -> int:
    return 0 if isinstance(result, dict) or result.ok else 2


@command(_show, exit_code=_exit_code)
def run(
    *,
    config: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, or a run to resume.")
    ],
    scheduler: Scheduler = None,
    overrides: Set = None,
    accept_annotations: Annotated[
        bool,
        typer.Option(
            "--accept-annotations",
            help="Select the rounds to come by annotations that were replaced since the last one.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only check, and show what each round would score, train on and cost."
        ),
    ] = False,
    trust_run: TrustRun = False,
) -> "dict[str, Any] | Diagnosis":
    """Do all rounds: score, select, train. Run it again to resume after an interruption."""
    if dry_run:
        from pipeline.doctor.checks import examine

        return examine(config, scheduler=scheduler, overrides=overrides or (), trust_run=trust_run)
    from pipeline.progress import status

    with status("loading libraries"):  # seconds, with those of models
        from pipeline.stages import run

    return run(
        config,
        scheduler=scheduler,
        overrides=overrides or (),
        accept_annotations=accept_annotations,
        trust_run=trust_run,
    )


@command(show_lines)
def pilot(
    *,
    config: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml", help="A configuration, or a run.")
    ],
    share: Annotated[
        float,
        typer.Option(
            min=0.0001, max=1.0, help="Cost of the pilot, as a share of the run's training."
        ),
    ] = 0.05,
    seeds: Annotated[
        int, typer.Option(min=2, max=100, help="Number of seeds; more narrow the intervals.")
    ] = 3,
    policies: Policies = None,
    output: Output = None,
    scheduler: Scheduler = None,
    overrides: Set = None,
    trust_run: TrustRun = False,
) -> "PilotResult":
    """Say in advance which selection will pay on this corpus, from small runs of a few percent."""
    from pipeline.pilot.command import run_pilot

    return run_pilot(
        config,
        share=share,
        num_seeds=seeds,
        policies=policies or (),
        output=output,
        scheduler=scheduler,
        overrides=overrides or (),
        trust_run=trust_run,
    )


@command(show_rounds)
def train(
    *,
    run: RunOrConfig,
    round_number: Round = None,
    overrides: Set = None,
    trust_run: TrustRun = False,
) -> dict[str, Any]:
    """Train one round on its index file."""
    from pipeline.stages import train

    return train(run, round_number=round_number, overrides=overrides or (), trust_run=trust_run)
