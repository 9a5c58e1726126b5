"""The command line `attent`: its commands and the options before a command's name."""

import typer

from pipeline.cli.commands.annotate import annotate, annotations
from pipeline.cli.commands.antk import antk
from pipeline.cli.commands.demo import demo
from pipeline.cli.commands.explore import explore
from pipeline.cli.commands.export import export, export_subset
from pipeline.cli.commands.first_steps import examples, init, schema
from pipeline.cli.commands.ingest import ingest
from pipeline.cli.commands.maintenance import doctor, gc
from pipeline.cli.commands.query import query
from pipeline.cli.commands.report import report
from pipeline.cli.commands.run import pilot, run, train
from pipeline.cli.commands.score import score
from pipeline.cli.commands.select import import_losses, select
from pipeline.cli.commands.stream import stream
from pipeline.cli.options import Version
from pipeline.cli.output.command import LogFile, Quiet, Verbose
from pipeline.cli.output.logs import LogOptions

app = typer.Typer(
    name="attent",
    help="Train attention models on the part of a huge corpus that teaches the most right now.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

for _command in (
    *(demo, init, examples, schema),
    *(ingest, annotate, annotations, score, import_losses, select, stream, train, run, pilot),
    *(export, export_subset, query, explore, antk, report, gc, doctor),
):
    app.command()(_command)


@app.callback()
def options(
    context: typer.Context,
    *,
    verbose: Verbose = False,
    quiet: Quiet = False,
    log_file: LogFile = None,
    version: Version = False,  # noqa: ARG001 - its callback ends the command
) -> None:
    """Keep the options for log messages for the command."""
    context.obj = LogOptions(verbose, quiet, log_file)
