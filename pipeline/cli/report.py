"""`attent report`: its arguments and options."""

from typing import Annotated, Any

import typer

from pipeline.cli.options import Json
from pipeline.console import answer, show_values

# The last four are the verdict's.
Controls = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=RUN", help="A run to draw beside it; repeatable."),
]
Repeats = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="The same with another seed; repeatable."),
]
OnAllData = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="All data, for the verdict; one per seed."),
]
AtSameCost = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="All data for fewer epochs, at RUN's cost; one per seed."),
]
Quality = Annotated[
    str | None,
    typer.Option(help="The verdict's metric; default: accuracy, mean_iou, else eval_loss."),
]


def report(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    out: Annotated[str | None, typer.Option(help="Default: RUN/report.html.")] = None,
    control: Controls = None,
    repeat: Repeats = None,
    all_data: OnAllData = None,
    same_cost: AtSameCost = None,
    quality: Quality = None,
    png: Annotated[
        bool, typer.Option("--png", help="Also each chart as PNG, in `report` beside the page.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Writes one self-contained HTML file about a run, with a verdict: has it saved time?"""

    def work() -> Any:
        from pipeline.reports import outcomes
        from pipeline.reports.page import named_runs, write_report

        controls = named_runs(control or ())
        verdict = outcomes.verdict(
            run,
            repeats=repeat or (),
            all_data=all_data or (),
            same_cost=same_cost or (),
            quality=quality,
        )
        page = write_report(run, controls=controls, verdict=verdict, out=out, png=png)
        return {"report": page, "verdict": verdict}

    answer(
        work,
        as_json=as_json,
        show=lambda found: show_values(found | {"verdict": found["verdict"].sentence}),
    )
