"""`attent annotate` and `attent annotations`: columns of a corpus that runs share."""

from typing import Annotated, Any

import typer

from attent_select.errors import InputError
from pipeline.cli.options import MAX_SEED, Scheduler, TrustRun, trust_formats
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
Sample = Annotated[
    float | None, typer.Option(help="Share of the samples to measure; needs --extend.")
]
Extend = Annotated[
    str | None,
    typer.Option(metavar="KIND", help="What predicts the values of the others: ngram, hidden."),
]
MinFidelity = Annotated[
    float | None,
    typer.Option(help="Smallest rank correlation of predicted and measured values. Default: 0.5."),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of random parts of the corpus.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an annotation of that name.")]
# Characters of a text that are shown; JSON has all.
_SHOWN_CHARACTERS = 100
# Columns of the list; JSON has more.
_SHOWN = (
    "name",
    "kind",
    "num_rows",
    "coverage",
    "seconds",
    "enrichment",
    "auc",
    "fidelity",
    "digest",
)
Complete = Annotated[
    bool,
    typer.Option("--complete", help="Measure the shards that were appended since it was made."),
]
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
    sample: Sample = None,
    extend: Extend = None,
    min_fidelity: MinFidelity = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    complete: Complete = False,
    drop: Drop = False,
    scheduler: Scheduler = None,
    trust_run: TrustRun = False,
) -> Any:
    """Make a named column of a corpus, one value per sample, that all of its runs can use."""
    from pipeline.annotation import command as commands

    trust_formats(corpus, trust_run=trust_run)
    making = (kind, target, kind_column, settings, model, tokenizer, sample, extend, overwrite)
    if complete or drop:
        return _change(corpus, name=name, drop=drop, making=making, at=(scheduler, trust_run))
    return commands.annotate(
        corpus,
        name=name,
        kind=kind,
        settings=settings or (),
        model=model,
        tokenizer=tokenizer,
        target=_target_of(target, kind_column, judge_share),
        extension=_extension_of(sample, extend, min_fidelity, settings or []),
        seed=seed,
        overwrite=overwrite,
        scheduler=scheduler,
    )


def _change(
    corpus: str, *, name: str, drop: bool, making: tuple[Any, ...], at: tuple[str | None, bool]
) -> Any:
    from pipeline.annotation import command as commands

    if drop:
        return commands.drop(corpus, name=name, is_making=any(making))
    scheduler, trust_run = at
    return commands.complete(
        corpus, name=name, is_making=any(making), scheduler=scheduler, trust_run=trust_run
    )


def _target_of(shards: list[str] | None, kind_column: str | None, judge_share: float) -> Any:
    from pipeline.annotation.targets import target_settings

    return target_settings(shards, kind_column=kind_column, judge_share=judge_share)


def _extension_of(
    sample: float | None, extend: str | None, min_fidelity: float | None, settings: list[str]
) -> Any:
    from pipeline.config.extension_settings import extend_model_of, extension_of

    return extension_of(
        sample=sample,
        extend=extend,
        min_fidelity=min_fidelity,
        extend_model=extend_model_of(settings),
    )


def _show_list(listed: list[dict[str, Any]]) -> None:
    import polars as pl

    if not listed:
        typer.echo("The corpus has no annotations. Make one with `attent annotate`.")
        return
    if "group" in listed[0]:
        short = ({name: _shorten(entry[name]) for name in entry} for entry in listed)
        show_frame(pl.DataFrame(list(short)))
        return
    show_frame(pl.DataFrame([{name: entry[name] for name in _SHOWN} for entry in listed]))
    for entry in listed:
        if entry["prospect"] is not None:
            typer.echo(f"{entry['name']}: {entry['prospect']}.")


def _shorten(value: Any) -> Any:
    """Return a text as one short line that a terminal shows as it is."""
    if not isinstance(value, str):
        return value
    line = "".join(char if char.isprintable() else " " for char in value[: 2 * _SHOWN_CHARACTERS])
    line = " ".join(line.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


def _to_json(listed: list[dict[str, Any]]) -> dict[str, Any]:
    return {"examples" if listed and "group" in listed[0] else "annotations": listed}


@command(_show_list, to_json=_to_json)
def annotations(
    *,
    corpus: Corpus,
    judged: Annotated[
        str | None,
        typer.Option(
            metavar="CSV",
            help="Rows judged by hand (shard_id, row, wanted): they replace the target's examples.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Annotation whose samples are shown instead of the list.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the shards that is shown.")] = "text",
    examples: Annotated[
        int, typer.Option(min=1, help="Samples of the top, and beside the cut, that are shown.")
    ] = 5,
    trust_run: TrustRun = False,
) -> list[dict[str, Any]]:
    """List the annotations of a corpus: coverage, cost, and what selecting by each promises.

    The enrichment is the share of held-out examples of the target above the cut of the top 20 %,
    divided by 20 %, with a 95 % bootstrap interval; its ceiling is 5. With --name, samples of the
    top 20 % and from both sides of its cut are shown.
    """
    from pipeline.annotation import command as commands

    trust_formats(corpus, trust_run=trust_run)
    if name is None:
        return commands.list_annotations(corpus, judged=judged)
    if judged is not None:
        raise InputError("--judged changes the list: leave out --name, or --judged")
    return commands.list_examples(corpus, name=name, column=column, count=examples)
