"""`attent doctor` and `attent gc`: checks before a run, removal of files after it."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Run, Scheduler, Set, TrustRun, trust_formats
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_diagnosis, show_values

if TYPE_CHECKING:
    from pipeline.doctor.checks import Diagnosis
    from pipeline.runs.garbage_collection import GarbageReport


@command(show_diagnosis, exit_code=lambda diagnosis: 0 if diagnosis.ok else 2)
def doctor(
    *,
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG.yaml]", help="A configuration, or a run.")
    ] = None,
    scheduler: Scheduler = None,
    overrides: Set = None,
    trust_run: TrustRun = False,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price",
            metavar="NAME=VALUE",
            help="Price in dollars, or rate, of an object store or a worker, such as"
            " worker_hour=2.5; the names are those of the table in docs/scale.md. Repeatable.",
        ),
    ] = None,
) -> "Diagnosis":
    """Check the environment, storage, cluster and configuration, and estimate a run's cost."""
    from pipeline.doctor.checks import examine

    return examine(
        config,
        scheduler=scheduler,
        overrides=overrides or (),
        trust_run=trust_run,
        prices=price or (),
    )


@command(show_values)
def gc(
    *,
    run: Run,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be removed.")
    ] = False,
    trust_run: TrustRun = False,
) -> "GarbageReport":
    """Remove superseded losses (all but the newest) and leftovers of interrupted work."""
    from pipeline.runs.garbage_collection import collect_garbage

    trust_formats(run, trust_run=trust_run)
    return collect_garbage(run, dry_run=dry_run)
