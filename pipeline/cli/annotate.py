"""`attent annotate` and `attent annotations`: columns of a corpus that runs share."""

from typing import Annotated, Any

import typer

from pipeline.cli.options import Scheduler, TrustRun, trust_formats
from pipeline.cli.output.command import command
from pipeline.cli.output.show import show_frame, show_values

Corpus = Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus, or a run.")]
Name = Annotated[str, typer.Option(help="Name of the annotation.")]
Kind = Annotated[
    str | None,
    typer.Option(help="How values are made: column, loss, ngram, …, or a dotted path."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", metavar="URL", help="Shards of examples of what is wanted; repeatable."
    ),
]
KindColumn = Annotated[
    str | None,
    typer.Option(metavar="COL", help="Column with the kind of reference of each example."),
]
JudgeShare = Annotated[
    float, typer.Option(help="Share of the examples that judges instead of annotating.")
]
KindSet = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Setting of the kind; repeatable."),
]
Model = Annotated[
    str | None, typer.Option(metavar="PATH", help="Saved model: a folder, a URL, or a hub name.")
]
Tokenizer = Annotated[str | None, typer.Option(metavar="PATH", help="Folder of a fast tokenizer.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random parts of the corpus.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an annotation of that name.")]
Drop = Annotated[bool, typer.Option("--drop", help="Delete the annotation.")]


@command(show_values)
def annotate(
    *,
    corpus: Corpus,
    name: Name,
    kind: Kind = None,
    target: Targets = None,
    kind_column: KindColumn = None,
    judge_share: JudgeShare = 0.5,
    settings: KindSet = None,
    model: Model = None,
    tokenizer: Tokenizer = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    drop: Drop = False,
    scheduler: Scheduler = None,
    trust_run: TrustRun = False,
) -> Any:
    """Make a named column of a corpus, one value per sample, that all of its runs can use."""
    from pipeline.annotation import command as commands
    from pipeline.annotation.targets import target_settings

    trust_formats(corpus, trust_run=trust_run)
    if drop:
        making = (kind, target, kind_column, settings, model, tokenizer, overwrite)
        return commands.drop(corpus, name=name, is_making=any(making))
    return commands.annotate(
        corpus,
        name=name,
        kind=kind,
        settings=settings or (),
        model=model,
        tokenizer=tokenizer,
        target=target_settings(target, kind_column=kind_column, judge_share=judge_share),
        seed=seed,
        overwrite=overwrite,
        scheduler=scheduler,
    )


def _show_list(listed: list[dict[str, Any]]) -> None:
    import polars as pl

    if listed:
        show_frame(pl.DataFrame(listed))
    else:
        typer.echo("The corpus has no annotations. Make one with `attent annotate`.")


@command(_show_list, to_json=lambda listed: {"annotations": listed})
def annotations(*, corpus: Corpus, trust_run: TrustRun = False) -> list[dict[str, Any]]:
    """List the annotations of a corpus: coverage, cost, and the enrichment expected of each.

    The enrichment is the share of held-out examples of the target above the cut of the top 20 %,
    divided by 20 %, with a 95 % bootstrap interval; its ceiling is 5.
    """
    from pipeline.annotation.command import list_annotations

    trust_formats(corpus, trust_run=trust_run)
    return list_annotations(corpus)
