"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from attent_select import __version__

MAX_SEED = (1 << 63) - 1
# A command that only reads needs a run; the others also take the configuration that makes one.
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run.")]
RunOrConfig = Annotated[str, typer.Argument(metavar="RUN", help="A run, or a CONFIG.yaml.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a key of the configuration; repeatable."
    ),
]
Round = Annotated[
    int | None,
    typer.Option("--round", min=0, help="Round number. Default: the first unfinished round."),
]
Scheduler = Annotated[
    str | None, typer.Option(help="`local`, or the address of a Dask scheduler (tcp://…).")
]

TrustRun = Annotated[
    bool,
    typer.Option(
        "--trust-run",
        help="Use code and a cluster that the run itself names: its writer can execute any code.",
    ),
]


def trust_formats(*runs: str, trust_run: bool) -> None:
    """With `--trust-run`, use the shard formats of other packages that runs name."""
    if trust_run:
        from pipeline.config.trust import import_formats

        for run in runs:
            import_formats(run)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer calls it with the option's value
    if value:
        typer.echo(f"attent-select {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
]
