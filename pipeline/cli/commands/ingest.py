"""`attent ingest`: the manifest of a corpus."""

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import Scheduler
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_values

if TYPE_CHECKING:
    from pipeline.corpus.ingest import IngestResult


Convert = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="Write new shards first: parquet, lance or webdataset."),
]
RowGroupSamples = Annotated[
    int | None,
    typer.Option(
        min=1, help="Rows in a row group of new Parquet shards; by default at most 1024 and 8 MiB."
    ),
]
Drop = Annotated[
    list[str] | None,
    typer.Option("--drop", metavar="COLUMN", help="Column to leave out of new shards."),
]
Schema = Annotated[
    list[str] | None,
    typer.Option(
        "--schema",
        metavar="NAME=TYPE",
        help="Type of a column in new shards: json, string, int64, float32, bool, ….",
    ),
]
Append = Annotated[
    bool, typer.Option("--append", help="Append the shards to the corpus at --out, or to a run's.")
]
Name = Annotated[
    str | None,
    typer.Option(metavar="PART", help="Part of a mixture that appended shards belong to."),
]


@command(show_values)
def ingest(
    *,
    shards: Annotated[
        list[str], typer.Argument(metavar="SHARD_URL…", help="URLs, folders or globs of shards.")
    ],
    out: Annotated[str, typer.Option(metavar="URL", help="Folder of the corpus to create.")],
    convert: Convert = None,
    shard_samples: Annotated[
        int, typer.Option(min=1, help="Number of samples in a new shard.")
    ] = 10_000,
    row_group_samples: RowGroupSamples = None,
    drop: Drop = None,
    schema: Schema = None,
    skip_damaged: Annotated[
        bool,
        typer.Option("--skip-damaged", help="Leave out shards that cannot be read, and name them."),
    ] = False,
    append: Append = False,
    name: Name = None,
    scheduler: Scheduler = None,
) -> "IngestResult":
    """Build the manifest of a corpus (from JSON, Parquet, tars, image folders with --convert)."""
    from pipeline.stages import ingest_shards

    return ingest_shards(
        shards,
        out=out,
        convert=convert,
        shard_samples=shard_samples,
        row_group_samples=row_group_samples,
        drop=drop or (),
        types=schema or (),
        skip_damaged=skip_damaged,
        append=append,
        name=name,
        scheduler=scheduler,
    )
