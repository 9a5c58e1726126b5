"""`attent init`, `attent examples` and `attent schema`: a first configuration, and its keys."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from attent_select.errors import InputError
from pipeline.cli.output.command import command

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The file to write.")]
Shards = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Parquet files or tars: URL, folder or glob; repeatable."),
]
Task = Annotated[str | None, typer.Option(metavar="NAME", help="Task. Default: by the columns.")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Saved model to start from. Default: a small one from scratch."
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Tokenizer of a model from scratch. Default: a new one, trained on the first rows.",
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(metavar="URL", help="Shards of examples of what is wanted; repeatable."),
]
Evaluation = Annotated[
    list[str] | None, typer.Option(metavar="URL", help="Held-out shards; repeatable.")
]
Curated = Annotated[
    bool, typer.Option("--curated", help="All samples are worth training on: no selection.")
]
RunFolder = Annotated[
    str | None, typer.Option(metavar="URL", help="Folder of the run. Default: runs/NAME.")
]
Example = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="The example to write. Default: list all.")
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")]


def _show_written(result: dict[str, Any]) -> None:
    if "tokenizer" in result:
        typer.echo(
            f"{result['tokenizer']} is written: a tokenizer for a small model from scratch, trained"
            f" on the first {result['tokenizer_rows']:,} rows"
        )
    typer.echo(f"{result['path']} is written. Next: attent doctor {result['path']}")


def _show_examples(result: dict[str, Any]) -> None:
    if "path" in result:
        _show_written(result)
    else:
        for name, sentence in result["examples"].items():
            typer.echo(f"{name}: {sentence}")


@command(_show_written)
def init(
    *,
    path: ConfigFile = Path("attent.yaml"),
    shards: Shards = None,
    task: Task = None,
    model: Model = None,
    tokenizer: Tokenizer = None,
    target: Target = None,
    evaluation: Evaluation = None,
    curated: Curated = False,
    run: RunFolder = None,
) -> dict[str, Any]:
    """Write a commented configuration for your shards, after a look at their first rows."""
    from pipeline.first_steps.examples import refuse_existing, write_config
    from pipeline.first_steps.new_config import Wishes, new_configuration

    refuse_existing(path)
    tokenizer_folder = path.with_name(f"{path.stem}-tokenizer")
    wishes = Wishes(
        shards=shards or _ask("Shards (URL, folder or glob)", option="--shards").split(),
        run=run or f"runs/{path.stem}",
        new_tokenizer=tokenizer_folder,
        task=task,
        model=model,
        tokenizer=tokenizer,
        target=target or (),
        evaluation=evaluation or (),
        is_curated=curated,
    )
    new = new_configuration(wishes)
    result: dict[str, Any] = {"path": str(write_config(new.text, path))}
    if new.tokenizer_rows:
        result |= {"tokenizer": str(tokenizer_folder), "tokenizer_rows": new.tokenizer_rows}
    return result


@command(_show_examples)
def examples(*, name: Example = None, out: Out = Path()) -> dict[str, Any]:
    """List the example configurations, or write one of them."""
    from pipeline.first_steps.examples import example_names, write_example

    if name is None:
        return {"examples": example_names()}
    return {"path": str(write_example(name, folder=out))}


@command(typer.echo, to_json=json.loads)
def schema() -> str:
    """Print the JSON schema of a configuration: every key, described."""
    from pipeline.first_steps.examples import stored_schema

    return stored_schema().rstrip("\n")


def _ask(question: str, *, option: str) -> str:
    """Ask on a terminal.

    Raises:
        InputError: the command does not run on a terminal.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{option} is missing")
    return str(typer.prompt(question, err=True))
