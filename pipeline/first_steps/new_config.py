"""A commented configuration for given shards, whose task follows from their columns."""

import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from attent_select.errors import InputError
from catalogs.shard_search import find_shards
from pipeline.doctor.advice import ADVICE, IMAGE_TASKS, Advice, kind_of
from pipeline.first_steps.examples import SCHEMA_LINE
from pipeline.first_steps.first_rows import (
    TEXT_TASKS,
    FirstRows,
    look_at,
    suggest_task,
)
from pipeline.first_steps.new_tokenizer import tokenizer_of_first_rows
from pipeline.first_steps.small_models import image_model, image_settings, text_model
from pipeline.first_steps.text_length import fitting_length
from pipeline.progress import status


@dataclass(frozen=True)
class Wishes:
    """What the user has said about a new run.

    Attributes:
        shards: URLs, folders or globs of the corpus.
        run: URL or folder of the run.
        new_tokenizer: folder to write a tokenizer to, if a task on text has none.
        task: a task; None: the one that the columns suggest.
        model: a saved model to start from; None: a small one from scratch.
        tokenizer: folder of the tokenizer of a model from scratch.
        target: shards of examples of what is wanted.
        evaluation: held-out shards.
        is_curated: whether all samples are worth training on.
    """

    shards: Sequence[str]
    run: str
    new_tokenizer: Path
    task: str | None = None
    model: str | None = None
    tokenizer: str | None = None
    target: Sequence[str] = ()
    evaluation: Sequence[str] = ()
    is_curated: bool = False


@dataclass(frozen=True)
class NewConfiguration:
    """A commented configuration in YAML.

    Attributes:
        text: the YAML.
        tokenizer_rows: the rows that a new tokenizer was trained on; 0: there is none.
    """

    text: str
    tokenizer_rows: int


def new_configuration(wishes: Wishes) -> NewConfiguration:
    """Return a configuration for a corpus; a small model of text may need a new tokenizer.

    Raises:
        InputError: the corpus cannot be read, there are no examples or held-out shards where they
            should be, no task fits, or a model is missing.
        ExistsError: the folder of the new tokenizer exists.
    """
    _check_found("--target", wishes.target)
    _check_found("--evaluation", wishes.evaluation)
    tokenizer_rows = 0
    with tempfile.TemporaryDirectory() as folder:
        with status("looking at the first rows"):
            rows = look_at(wishes.shards, folder=folder)
        suggested = suggest_task(rows, task=wishes.task)
        task, reason = {"name": suggested.task, **suggested.settings}, suggested.reason
        if task["name"] in TEXT_TASKS and wishes.model is None and wishes.tokenizer is None:
            with status("training a tokenizer"):
                tokenizer_rows = tokenizer_of_first_rows(rows, task, folder=wishes.new_tokenizer)
            wishes = replace(wishes, tokenizer=str(wishes.new_tokenizer))
            reason += f". The tokenizer is new, trained on the first {tokenizer_rows:,} rows"
            reason += "; a saved model has its own"
        task |= _inputs(wishes, task, rows)
        model = _model(wishes, task, rows)
    advice = _advice(wishes, task)
    if advice.packs and task["name"] in TEXT_TASKS:
        task["packing"] = True
    text = "\n".join(_sections(wishes, task, model, advice, reason=reason)) + "\n"
    return NewConfiguration(text, tokenizer_rows)


def _check_found(option: str, shards: Sequence[str]) -> None:
    try:
        find_shards(shards)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error


def _inputs(wishes: Wishes, task: Mapping[str, Any], rows: FirstRows) -> dict[str, Any]:
    """Return the settings of how a task reads its columns."""
    if task["name"] in IMAGE_TASKS:
        is_saved = wishes.model is not None
        return {"processor": wishes.model} if is_saved else image_settings(rows, task["image"])
    if task["name"] == "image_text":
        if wishes.model is None:
            raise InputError("a task on images and text needs --model PATH (a folder, or a name)")
        return {"processor": wishes.model}
    tokenizer = {} if wishes.tokenizer is None else {"tokenizer": wishes.tokenizer}
    path = wishes.tokenizer or wishes.model
    assert path is not None
    return {
        **tokenizer,
        "max_length": fitting_length(rows, task, tokenizer=path, model=wishes.model),
    }


def _model(wishes: Wishes, task: Mapping[str, Any], rows: FirstRows) -> dict[str, Any]:
    if wishes.model is not None:
        return {"path": wishes.model}
    if task["name"] in IMAGE_TASKS:
        return {"config": image_model(task, rows)}
    return {"config": text_model(task["tokenizer"], max_length=task["max_length"])}


def _advice(wishes: Wishes, task: Mapping[str, Any]) -> Advice:
    """Return what was measured on corpora of this kind."""
    kind = kind_of(task["name"], task, has_target=bool(wishes.target))
    return ADVICE["curated" if wishes.is_curated and not wishes.target else kind]


def _sections(
    wishes: Wishes,
    task: Mapping[str, Any],
    model: Mapping[str, Any],
    advice: Advice,
    *,
    reason: str,
) -> Iterator[str]:
    yield SCHEMA_LINE
    yield "# Keys that are not here have defaults: `attent schema` describes every key."
    yield from _section({"run": wishes.run, "seed": 0})
    yield from _section(
        {"corpus": {"shards": [*wishes.shards]}},
        "Parquet files, Lance files or WebDataset tars to choose from.",
    )
    if wishes.evaluation:
        held_out = {"evaluation": {"shards": [*wishes.evaluation]}}
        yield from _section(held_out, "Held-out shards, evaluated after every round.")
    if wishes.target:
        target = {"target": {"shards": [*wishes.target]}}
        yield from _section(target, "Examples of what is wanted; samples are compared with them.")
    yield from _section({"task": task}, f"Suggested by {reason}.")
    yield from _section({"model": model}, _FROM_SAVED if "path" in model else _FROM_SCRATCH)
    yield from _advice_sections(advice, task)
    yield from _section({"training": _training(model)}, "Samples per optimizer step, and its rate.")
    yield from _section({"cluster": {"scheduler": "local"}}, _WORKERS)


def _advice_sections(advice: Advice, task: Mapping[str, Any]) -> Iterator[str]:
    """Yield the sections that the advice asks for, with its reason."""
    reason = f"{advice.sentence}. Measured: {advice.because}."
    comment = "\n# ".join(textwrap.wrap(reason, width=98))
    sections = dict(advice.sections)
    if "annotations" in sections:
        annotations = sections["annotations"]
        sections["annotations"] = {n: _with_column(annotations[n], task) for n in annotations}
    for name, section in sections.items():
        yield from _section({name: section}, comment)
        comment = ""


def _with_column(settings: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an annotation with the column that the model learns from."""
    learned = [task[key] for key in ("text", "messages", "response", "chosen") if key in task]
    return {**settings, "text": learned[0]} if learned else dict(settings)


def _training(model: Mapping[str, Any]) -> dict[str, Any]:
    return {"batch_size": 32, "learning_rate": 5e-5 if "path" in model else 1e-3}


def _section(values: Mapping[str, Any], comment: str = "") -> Iterator[str]:
    yield ""
    if comment:
        yield f"# {comment}"
    yield yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True).rstrip("\n")


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, as people write them."""


_Dumper.add_representer(
    list,
    lambda dumper, values: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", values, flow_style=True
    ),
)

_FROM_SAVED = "The saved model to start from; `lora: {rank: 8}` beside it trains an adapter."
_FROM_SCRATCH = "A small model from scratch; `path: FOLDER` instead starts from a saved one."
_WORKERS = "One worker process per core; or tcp://…, or the class of a Dask cluster."
