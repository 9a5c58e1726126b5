"""`attent gc`: removal of files that no later stage reads."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Run
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

if TYPE_CHECKING:
    from pipeline.runs.garbage_collection import GarbageReport


@command(show_values)
def gc(
    *,
    run: Run,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be removed.")
    ] = False,
) -> "GarbageReport":
    """Remove superseded losses (all but the newest) and leftovers of interrupted work."""
    from pipeline.runs.garbage_collection import collect_garbage

    return collect_garbage(run, dry_run=dry_run)
