"""`attent select` and `attent import-losses`: subsets of given losses; losses of other programs."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import MAX_SEED, Scheduler, TrustRun, trust_formats
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

if TYPE_CHECKING:
    from pipeline.selection.import_losses import ImportResult
    from pipeline.selection.select_command import SelectResult

Losses = Annotated[
    str,
    typer.Argument(
        metavar="LOSSES",
        help="A run, a corpus, or Parquet files with the columns shard_id, row and loss.",
    ),
]
IndexOut = Annotated[
    str | None, typer.Option("--out", metavar="INDEX", help="The index file to write.")
]
Ratio = Annotated[float | None, typer.Option(help="Share of the corpus to select, in (0, 1].")]
NumSamples = Annotated[int | None, typer.Option(min=1, help="Number of samples to select.")]
NumUnits = Annotated[
    int | None,
    typer.Option(min=1, help="Budget in units (tokens): select until it is used up."),
]
AtMost = Annotated[
    bool,
    typer.Option("--at-most", help="If fewer samples are eligible than requested, select all."),
]
StrategySet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting of the strategy; repeatable."),
]
Where = Annotated[
    str | None, typer.Option(metavar="SQL", help="Condition that eligible rows fulfil.")
]
By = Annotated[str | None, typer.Option(metavar="COL", help="Column of strata: each gets a quota.")]
Granularity = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="What is selected as a whole: sample, row_group, shard, or a number of rows.",
    ),
]
LossesOfRound = Annotated[
    int | None,
    typer.Option(
        "--round",
        min=0,
        help="Round number: changes the random draw; for a run, selects from that round's losses.",
    ),
]
SampleId = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="COLUMN",
        help="Column with the ids of the samples in your own files; the index has them, too.",
    ),
]
Loss = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column with the losses in your own files.")
]
LossesOfCorpus = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="The run or corpus whose samples your own files are about."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Compute everything, write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace INDEX if it exists.")]


@command(show_values)
def select(
    *,
    losses: Losses,
    out: IndexOut = None,
    ratio: Ratio = None,
    num_samples: NumSamples = None,
    num_units: NumUnits = None,
    at_most: AtMost = False,
    strategy: Annotated[str, typer.Option(help="Name of the strategy.")] = "soft",
    settings: StrategySet = None,
    where: Where = None,
    by: By = None,
    granularity: Granularity = None,
    sample_id: SampleId = None,
    loss: Loss = None,
    corpus: LossesOfCorpus = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the random draw.")] = 0,
    round_number: LossesOfRound = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    scheduler: Scheduler = None,
    trust_run: TrustRun = False,
) -> "SelectResult":
    """Select the teaching subset from losses and write an index file."""
    from pipeline.selection.choice import Budget
    from pipeline.selection.select_command import OwnFiles, select_losses
    from pipeline.selection.selection_options import SelectionOptions

    trust_formats(losses, trust_run=trust_run)
    return select_losses(
        losses,
        out=out,
        budget=Budget(num_samples, ratio, num_units, at_most=at_most),
        options=SelectionOptions(strategy, settings or (), where, by, granularity),
        seed=seed,
        round_number=round_number,
        dry_run=dry_run,
        overwrite=overwrite,
        scheduler=scheduler,
        own=OwnFiles(sample_id, loss, corpus),
    )


@command(show_values)
def import_losses(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run or a corpus.")],
    losses: Annotated[
        str, typer.Argument(metavar="FILE", help="Parquet files with the losses of its samples.")
    ],
    sample_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Column with ids, which the corpus has, too. Default: shard_id and row.",
        ),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with the losses. Default: loss.")
    ] = None,
    round_number: Annotated[
        int | None,
        typer.Option(
            "--round", min=0, help="Round of the losses. Default: after the last one with losses."
        ),
    ] = None,
    trust_run: TrustRun = False,
) -> "ImportResult":
    """Make losses that another program measured those of a round."""
    from pipeline.selection.import_losses import import_losses

    trust_formats(run, trust_run=trust_run)
    return import_losses(run, losses, sample_id=sample_id, loss=loss, round_number=round_number)
