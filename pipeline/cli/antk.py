"""`attent antk`: its arguments and options."""

from typing import Annotated, Any

import typer

from pipeline.cli.options import Json, Run
from pipeline.console import answer


def antk(
    *,
    run: Run,
    output: Annotated[
        str | None,
        typer.Option(help="f: target (its logit), logits, or loss. Default: target, else loss."),
    ] = None,
    probe: Annotated[int, typer.Option(min=1, help="Samples of the kernel.")] = 64,
    sketch: Annotated[
        int | None,
        typer.Option(metavar="R", min=1, help="Projects gradients to R numbers: large models."),
    ] = None,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", help="Only these; repeatable. Default: all.")
    ] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Also each group: q, k, v, …")] = False,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    as_json: Json = False,
) -> None:
    """Measures how the attention neural tangent kernel drifts from round to round."""

    def work() -> Any:
        from pipeline.antk.measurement import Asked, measure

        return measure(run, Asked(output, probe, sketch, dtype), rounds=rounds, groups=groups)

    def show(result: Any) -> None:
        from pipeline.antk.measurement import show_drift

        show_drift(result)

    answer(work, as_json=as_json, show=show)
