"""`attent explore`: a local web page about a corpus, its losses and annotations."""

import os
import sys
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import TrustRun, trust_formats
from pipeline.cli.output.command import Json, command

if TYPE_CHECKING:
    from pipeline.explorer.server import Server


def _show(server: "Server") -> None:
    typer.echo(f"Explore {server.url} (Ctrl-C ends it)")


def _url_of(server: "Server") -> dict[str, str]:
    return {"url": server.url}


def _serve(server: "Server") -> None:
    # Without a display, webbrowser would start a browser in this terminal.
    has_display = sys.platform != "linux" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if server.opens_browser and has_display:
        webbrowser.open(server.url)
    server.serve()


@command(_show, to_json=_url_of, then=_serve)
def explore(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN|CORPUS", help="A run or a corpus.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. Default: a free one.")
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Do not open the page in a browser.")
    ] = False,
    allow_marks: Annotated[
        bool,
        typer.Option(
            "--allow-marks", help="Let the page write marks of samples, as the annotation marks."
        ),
    ] = False,
    max_rows: Annotated[
        int,
        typer.Option(
            min=1000, help="Rows that a query reads; of more, it reads random shards and says so."
        ),
    ] = 100_000_000,
    as_json: Json = False,
    trust_run: TrustRun = False,
) -> "Server":
    """Look at a corpus, its losses and annotations on a local web page.

    Distributions, the hardest and easiest samples, single samples, and what a selection would
    take. Only this machine can open the page, with the token in its address.
    """
    from pipeline.explorer.answers import Explorer
    from pipeline.explorer.server import open_server

    trust_formats(run, trust_run=trust_run)
    explorer = Explorer(run, max_rows=max_rows, allow_marks=allow_marks, trust_run=trust_run)
    return open_server(explorer, port=port, opens_browser=not (no_open or as_json))
