"""`attent demo`: the whole loop on data that ships with installed packages."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.output.command import command

if TYPE_CHECKING:
    from pipeline.demo.run import DemoResult


def show_comparison(result: "DemoResult") -> None:
    """Print a table with a row per arm, and where the report is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    for title in (
        *("samples\nseen", "score\ns", "select\ns", "train\ns", "total\ns"),
        *("accuracy\n", "held-out\nloss", "seconds\nsaved"),
    ):
        table.add_column(title, justify="right")
    for name, arm in result.arms.items():
        seconds = [f"{arm.seconds[stage]:.1f}" for stage in ("score", "select", "train", "total")]
        accuracy = "" if arm.accuracy is None else f"{arm.accuracy:.4f}"
        saved = "" if name == "full" else f"{arm.seconds_saved:.1f}"
        table.add_row(
            name, f"{arm.samples_seen:,}", *seconds, accuracy, f"{arm.eval_loss:.4f}", saved
        )
    console = Console()
    console.print(table)
    console.print(f"report: {result.report}", soft_wrap=True)


@command(show_comparison)
def demo(
    *,
    task: Annotated[str, typer.Option(help="`vision` or `text`.")] = "vision",
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder for the data, the runs and the report.")
    ] = "attent-demo",
) -> "DemoResult":
    """Run the whole loop on real data, on this machine, against all data and random subsets."""
    from pipeline.demo.run import run_demo

    return run_demo(task, out=out)
