"""`attent export` and `attent export-subset`: a trained model and a subset, for other programs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.cli.options import MAX_SEED, Run, Scheduler, TrustRun, trust_formats
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

if TYPE_CHECKING:
    from pipeline.subset.export_subset import SubsetResult

Target = Annotated[
    str, typer.Argument(metavar="RUN|INDEX", help="A run, or an index file of `attent select`.")
]
Format = Annotated[
    Literal["parquet", "jsonl", "webdataset", "hf", "mds"],
    typer.Option("--to", help="Format of the files; `hf` is a folder that load_dataset reads."),
]
RowOrder = Annotated[
    Literal["teaching", "stored"],
    typer.Option(help="Order of the samples: as training reads them, or as in the corpus."),
]
PartSamples = Annotated[
    int | None,
    typer.Option(min=1, help="Number of samples in a file. Default: about 64 MiB of the corpus."),
]


@command(show_values)
def export(
    *,
    run: Run,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="A new local folder.")],
    round_number: Annotated[
        int | None,
        typer.Option("--round", min=0, help="Round after which to export. Default: the last."),
    ] = None,
    trust_run: TrustRun = False,
) -> dict[str, Any]:
    """Write the trained model in the Hugging Face layout, with an adapter merged into it."""
    from pipeline.runs.export import export

    return export(run, out=out, round_number=round_number, trust_run=trust_run)


def _show_subset(result: "SubsetResult") -> None:
    values = asdict(result)
    snippets = {name: values.pop(name) for name in ("load", "llama_factory", "axolotl")}
    show_values(values)
    titles = {
        "load": "Python",
        "llama_factory": "LLaMA-Factory, in dataset_info.json",
        "axolotl": "axolotl",
    }
    for name, snippet in snippets.items():
        if snippet is not None:
            typer.echo(f"\n# {titles[name]}\n{snippet}")


@command(_show_subset)
def export_subset(
    *,
    target: Target,
    to: Format,
    out: Annotated[str, typer.Option(metavar="URL", help="Folder to write.")],
    order: RowOrder = "teaching",
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Columns of the corpus. Default: all."),
    ] = None,
    part_samples: PartSamples = None,
    corpus: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Run or corpus of an index file that is not in a run."),
    ] = None,
    round_number: Annotated[
        int | None,
        typer.Option("--round", min=0, help="Round whose index to export. Default: the newest."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Seed of the order. Default: that of the run."),
    ] = None,
    scheduler: Scheduler = None,
    trust_run: TrustRun = False,
) -> "SubsetResult":
    """Write the selected samples, with weight, loss, shard_id and row, for other trainers."""
    from pipeline.subset.export_subset import SubsetOptions, export_subset

    trust_formats(corpus or target, trust_run=trust_run)
    names = None if columns is None else tuple(filter(None, map(str.strip, columns.split(","))))
    return export_subset(
        target,
        out=out,
        options=SubsetOptions(to, order, names, part_samples, seed),
        corpus=corpus,
        round_number=round_number,
        scheduler=scheduler,
    )
