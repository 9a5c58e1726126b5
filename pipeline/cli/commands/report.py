"""`attent report`: an HTML page about a run, and its verdict."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pipeline.cli.options import Run, TrustRun, trust_formats
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

Controls = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=RUN", help="Another run to draw beside this one; repeatable."),
]
Repeats = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="The same run with another seed; repeatable."),
]
OnAllData = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN", help="A run on all data, for the verdict; repeat it for each seed."
    ),
]
AtSameCost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN",
        help="A run on all data for fewer epochs, at the cost of RUN; repeat it for each seed.",
    ),
]
Quality = Annotated[
    str | None,
    typer.Option(
        help="Metric of the verdict. Default: accuracy or mean_iou, else eval_loss.",
    ),
]

Png = Annotated[
    bool,
    typer.Option("--png", help="Also write each chart as PNG, into `report` beside the page."),
]
Svg = Annotated[
    bool,
    typer.Option("--svg", help="Also write each chart as SVG, into `report` beside the page."),
]


def _show(result: Mapping[str, Any]) -> None:
    show_values({**result, "verdict": result["verdict"].sentence})


@command(_show)
def report(
    *,
    run: Run,
    out: Annotated[
        str | None, typer.Option(help="The page to write. Default: RUN/report.html.")
    ] = None,
    control: Controls = None,
    repeat: Repeats = None,
    all_data: OnAllData = None,
    same_cost: AtSameCost = None,
    quality: Quality = None,
    png: Png = False,
    svg: Svg = False,
    trust_run: TrustRun = False,
) -> dict[str, Any]:
    """Write one self-contained HTML file about a run, with a verdict: did selection save time?"""
    from pipeline.reports.html_report import named_runs, write_report
    from pipeline.reports.run_results import verdict_on

    controls = named_runs(control or ())
    trust_formats(
        run,
        *controls.values(),
        *(repeat or ()),
        *(all_data or ()),
        *(same_cost or ()),
        trust_run=trust_run,
    )
    verdict = verdict_on(
        run,
        repeats=repeat or (),
        all_data=all_data or (),
        same_cost=same_cost or (),
        quality=quality,
    )
    page = write_report(run, controls=controls, verdict=verdict, out=out, png=png, svg=svg)
    return {"report": page, "verdict": verdict}
