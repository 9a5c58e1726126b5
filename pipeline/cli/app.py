"""The command line: `attent COMMAND`, a thin skin over the Python functions.

Arguments and options of the commands, but for those of `antk` and `report` (`antk.py`,
`report.py`).
"""

from typing import Annotated, Any

import typer

from attent_select.errors import InputError
from pipeline.cli.antk import antk
from pipeline.cli.options import Json, Run
from pipeline.cli.report import report
from pipeline.console import SHOWN_ROWS, answer, show_frame, show_rounds, show_values

app = typer.Typer(
    name="attent",
    help="Train attention models on the part of a huge corpus that teaches the most right now.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replaces a key of the configuration."),
]
Round = Annotated[
    int | None, typer.Option("--round", min=0, help="Which round; default: the next unfinished.")
]
Scheduler = Annotated[
    str | None, typer.Option(help="`local`, or a Dask scheduler's address (tcp://…).")
]

# Options of `attent stream`.
Classes = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Measure how well its values are mixed.")
]
StreamingSet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A key of the section `streaming`."),
]

# Options of `attent select`.
Losses = Annotated[
    str, typer.Argument(metavar="LOSSES", help="A run, or Parquet files with shard_id, row, loss.")
]
IndexOut = Annotated[
    str | None, typer.Option("--out", metavar="INDEX", help="The index file to write.")
]
Ratio = Annotated[float | None, typer.Option(help="Share of the corpus, in (0, 1].")]
NumSamples = Annotated[int | None, typer.Option(min=1, help="So many samples.")]
NumUnits = Annotated[
    int | None, typer.Option(min=1, help="As many samples as fit into so many units (tokens).")
]
AtMost = Annotated[
    bool, typer.Option("--at-most", help="If fewer are eligible than asked for, take all these.")
]
StrategySet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the strategy."),
]
Where = Annotated[
    str | None, typer.Option(metavar="SQL", help="A condition that eligible rows fulfil.")
]
By = Annotated[str | None, typer.Option(metavar="COL", help="Strata: each gets its quota.")]
Granularity = Annotated[
    str | None,
    typer.Option(metavar="WHAT", help="sample, row_group, shard, or rows per block."),
]
LossesAsOf = Annotated[
    int | None,
    typer.Option("--round", min=0, help="Draws anew; of a run, from its losses as of then."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Compute everything, write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace INDEX if it is there.")]


@app.command()
def demo(
    *,
    task: Annotated[str, typer.Option(help="`vision` or `text`.")] = "vision",
    out: Annotated[str, typer.Option(metavar="RUN", help="Folder of the demo.")] = "attent-demo",
    as_json: Json = False,
) -> None:
    """The whole loop on real data, on this machine, against all data and a random subset."""

    def work() -> Any:
        from pipeline.demo.run import run_demo

        return run_demo(task, out=out)

    def show(result: Any) -> None:
        from pipeline.demo.run import show_table

        show_table(result)

    answer(work, as_json=as_json, show=show)


@app.command()
def ingest(
    *,
    shards: Annotated[list[str], typer.Argument(metavar="SHARD_URL…", help="URLs or globs.")],
    out: Annotated[str, typer.Option(metavar="RUN", help="The run to create.")],
    convert: Annotated[
        str | None,
        typer.Option(metavar="FORMAT", help="Write new shards first: parquet or webdataset."),
    ] = None,
    shard_samples: Annotated[int, typer.Option(min=1, help="Samples per new shard.")] = 10_000,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Builds the manifest of a corpus (from JSONL, Parquet or image folders with --convert)."""

    def work() -> Any:
        from pipeline import stages

        return stages.ingest_shards(
            shards, out=out, convert=convert, shard_samples=shard_samples, scheduler=scheduler
        )

    answer(work, as_json=as_json, show=show_values)


@app.command()
def score(
    *,
    run: Run,
    round_number: Round = None,
    fraction: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the corpus to measure; the rest keeps its loss."),
    ] = None,
    scheduler: Scheduler = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Annotates the corpus with the loss of every sample."""

    def work() -> Any:
        from pipeline import stages

        return stages.score(
            run,
            round_number=round_number,
            fraction=fraction,
            scheduler=scheduler,
            overrides=overrides or (),
        )

    answer(work, as_json=as_json, show=show_values)


@app.command()
def select(
    *,
    losses: Losses,
    out: IndexOut = None,
    ratio: Ratio = None,
    num_samples: NumSamples = None,
    num_units: NumUnits = None,
    at_most: AtMost = False,
    strategy: Annotated[str, typer.Option(help="Name of a strategy.")] = "soft",
    settings: StrategySet = None,
    where: Where = None,
    by: By = None,
    granularity: Granularity = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random draw.")] = 0,
    round_number: LossesAsOf = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Picks the teaching subset from losses and writes an index file."""

    def work() -> Any:
        from pipeline.selection.choice import Budget
        from pipeline.selection.command import select_losses
        from pipeline.selection.options import SelectionOptions

        budget = Budget(num_samples, ratio, num_units, at_most=at_most)
        return select_losses(
            losses,
            out=out,
            budget=budget,
            options=SelectionOptions(strategy, settings or (), where, by, granularity),
            seed=seed,
            round_number=round_number,
            dry_run=dry_run,
            overwrite=overwrite,
            scheduler=scheduler,
        )

    answer(work, as_json=as_json, show=show_values)


@app.command()
def stream(
    *,
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="A run.")],
    index: Annotated[str, typer.Option(metavar="INDEX", help="An index file.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Global batch size.")],
    world_size: Annotated[int, typer.Option(min=1, help="Number of ranks.")] = 1,
    rank: Annotated[int, typer.Option(min=0, help="Which of them to walk.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the index.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the order.")] = 0,
    digest: Annotated[
        bool, typer.Option("--digest", help="Only the digests of the order; reads no sample.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only what would be read; reads no sample.")
    ] = False,
    classes: Classes = None,
    settings: StreamingSet = None,
    as_json: Json = False,
) -> None:
    """Walks the training stream without training: throughput, bytes, read amplification."""

    def work() -> Any:
        from pipeline.training import dry_run as walk
        from pipeline.training.teaching_stream import Place, settings_of

        place = Place(seed, batch_size=batch_size, epochs=epochs, rank=rank, world_size=world_size)
        reading = settings_of(corpus, settings or ())
        if plan:
            if digest or classes is not None:
                raise InputError("a plan is no walk: leave --digest and --classes out, or --plan")
            return walk.plan(corpus, index=index, place=place, settings=reading)
        return walk.walk(
            corpus,
            index=index,
            place=place,
            settings=reading,
            classes=classes,
            digest_only=digest,
        )

    answer(work, as_json=as_json, show=show_values)


@app.command()
def train(
    *, run: Run, round_number: Round = None, overrides: Set = None, as_json: Json = False
) -> None:
    """Trains one round on its index file."""

    def work() -> Any:
        from pipeline import stages

        return stages.train(run, round_number=round_number, overrides=overrides or ())

    answer(work, as_json=as_json, show=show_rounds)


@app.command("run")
def run_all(
    *,
    config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="Or a run to go on with.")],
    scheduler: Scheduler = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """All rounds: score, select, train. Run it again to go on after an interruption."""

    def work() -> Any:
        from pipeline import stages

        return stages.run(config, scheduler=scheduler, overrides=overrides or ())

    answer(work, as_json=as_json, show=show_rounds)


@app.command()
def export(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="A new local folder.")],
    round_number: Annotated[
        int | None, typer.Option("--round", min=0, help="After which round; default: the last.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Writes the trained model in the Hugging Face layout, an adapter merged into it."""

    def work() -> Any:
        from pipeline.runs.export import export as write

        return write(run, out=out, round_number=round_number)

    answer(work, as_json=as_json, show=show_values)


@app.command()
def query(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT or WITH.")],
    as_json: Json = False,
) -> None:
    """SQL over the tables losses, index, corpus, metrics, scoring, decisions and antk of a run."""

    def work() -> Any:
        from pipeline.reports.query import query as ask

        # One more, to know whether there are more.
        frame = ask(run, sql, limit=None if as_json else SHOWN_ROWS + 1)
        return {"columns": frame.columns, "rows": frame.rows()} if as_json else frame

    answer(work, as_json=as_json, show=show_frame)


app.command()(antk)
app.command()(report)


@app.command()
def gc(
    *,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Removes superseded losses (all but the newest) and what interrupted work left behind."""

    def work() -> Any:
        from pipeline.runs.garbage_collection import collect_garbage

        return collect_garbage(run, dry_run=dry_run)

    answer(work, as_json=as_json, show=show_values)


@app.command()
def doctor(
    *,
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG.yaml]", help="Or a run.")] = None,
    scheduler: Scheduler = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Checks the environment, storage, cluster and configuration; says what the run will cost."""

    def work() -> Any:
        from pipeline.doctor.checks import examine

        return examine(config, scheduler=scheduler, overrides=overrides or ())

    def show(result: Any) -> None:
        from pipeline.doctor.checks import show_diagnosis

        show_diagnosis(result)

    if not answer(work, as_json=as_json, show=show).ok:
        raise typer.Exit(2)
