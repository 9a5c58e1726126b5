"""`attent antk`: drift of the attention neural tangent kernel."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import RunOrConfig, TrustRun
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_frame

if TYPE_CHECKING:
    from pipeline.antk.measurement import AntkResult

Sketch = Annotated[
    int | None,
    typer.Option(
        metavar="R", min=1, help="Project gradients to R numbers, for models too large otherwise."
    ),
]
Rounds = Annotated[
    list[int] | None,
    typer.Option("--round", help="Round number; repeatable. Default: all rounds."),
]


def _show(result: "AntkResult") -> None:
    import polars as pl

    method = "exact" if result.sketch is None else f"sketch of {result.sketch}"
    typer.echo(f"{result.meaning}. {result.probe} samples, {method}, {result.dtype}", err=True)
    rows = [
        {
            **{name: row[name] for name in ("checkpoint", "step", "group")},
            "drift": _drift(row),
            "trace": f"{row['trace']:.4g}",
            "share": f"{row['trace_share']:.1%}",
            "effective rank": f"{row['effective_rank']:.2f}",
            "largest eigenvalue": f"{row['eigenvalues'][0]:.4g}",
        }
        for row in result.checkpoints
    ]
    show_frame(pl.DataFrame(rows))
    typer.echo(f"figure: {result.figure}", err=True)


def _drift(row: Mapping[str, Any]) -> str:
    if row["drift"] is None:
        return ""
    if row["resolved"] or not row["error"]:
        return f"{row['drift']:.4f}"
    return f"not resolved (below {row['error']:.4f})"


@command(_show)
def antk(
    *,
    run: RunOrConfig,
    output: Annotated[
        str | None,
        typer.Option(
            help="Model output: target (its logit), logits, or loss. Default: target, else loss."
        ),
    ] = None,
    probe: Annotated[int, typer.Option(min=1, help="Number of samples in the kernel.")] = 64,
    sketch: Sketch = None,
    rounds: Rounds = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Also show each parameter group: q, k, v, …")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    trust_run: TrustRun = False,
) -> "AntkResult":
    """Measure how the attention neural tangent kernel drifts from round to round."""
    from pipeline.antk.measurement import KernelSettings, measure

    settings = KernelSettings(output, probe, sketch, dtype)
    return measure(run, settings, rounds=rounds, groups=groups, trust_run=trust_run)
