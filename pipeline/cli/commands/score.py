"""`attent score`: the losses of a round."""

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Round, RunOrConfig, Scheduler, Set, TrustRun
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

if TYPE_CHECKING:
    from pipeline.scoring.driver import ScoreResult


def _show(result: "ScoreResult") -> None:
    from catalogs.losses.unusable import Unusable

    values = {field.name: getattr(result, field.name) for field in fields(result)}
    examples = list(values.pop("examples"))
    fidelity = None if result.fidelity is None else str(result.fidelity)
    failed = str(Unusable(Counter(result.failed), examples))
    show_values(values | {"failed": failed, "fidelity": fidelity})


@command(_show)
def score(
    *,
    run: RunOrConfig,
    round_number: Round = None,
    fraction: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of the corpus to measure; other samples keep their loss."
        ),
    ] = None,
    scheduler: Scheduler = None,
    overrides: Set = None,
    trust_run: TrustRun = False,
) -> "ScoreResult":
    """Measure the loss of every sample of the corpus."""
    from pipeline.stages import score

    return score(
        run,
        round_number=round_number,
        fraction=fraction,
        scheduler=scheduler,
        overrides=overrides or (),
        trust_run=trust_run,
    )
