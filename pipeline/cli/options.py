"""Arguments and options of the command line that several files of commands share."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run, or a CONFIG.yaml.")]
