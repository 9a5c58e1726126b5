"""The first rows of a corpus, and the task that its columns suggest."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attent_select.errors import InputError
from catalogs.formats.webdataset import kind_of_bytes
from catalogs.shard_format import Shard
from catalogs.shards import read_shard
from catalogs.tars.members import KEY
from pipeline.config.shard_settings import CorpusSettings
from pipeline.doctor.first_shard import first_rows, inspect_first_shard

Settings = dict[str, Any]

# Tasks that read text and nothing else.
TEXT_TASKS = ("causal_lm", "preference_pairs")
# Names of columns, as data sets on the hub have them.
_PROMPTS = ("instruction", "prompt", "question", "query", "problem", "input")
# What a prompt is about, in a column beside it.
_FURTHER = ("input", "context")
_RESPONSES = ("output", "response", "answer", "completion", "solution", "target")
_CHATS = ("messages", "conversations", "conversation")
_LABELS = ("label", "labels", "cls", "class", "category", "fine_label", "coarse_label")
_MASKS = ("mask", "segmentation", "annotation", "seg")
_TARGETS = ("target", "depth", "distance", "height")
# Rows whose labels are counted.
_COUNTED_ROWS = 1 << 16


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a shard.

    Attributes:
        shard: the first shard of the corpus.
        values: the values of each column; a missing one is None.
    """

    shard: Shard
    values: Mapping[str, Sequence[Any]]

    @cached_property
    def texts(self) -> list[str]:
        """The columns of text."""
        return self._columns_of(str)

    @cached_property
    def images(self) -> list[str]:
        """The columns of encoded images."""
        return [name for name, values in self.values.items() if _are_images(values)]

    @cached_property
    def labels(self) -> list[str]:
        """The columns of whole numbers or text."""
        return self._columns_of((int, str))

    def column_named(
        self, known: Sequence[str], *, among: Sequence[str] | None = None
    ) -> str | None:
        """Return the first column of `known` names, in any case of letters."""
        columns = {name.lower(): name for name in (self.values if among is None else among)}
        return next((columns[name] for name in known if name in columns), None)

    def _columns_of(self, kind: type | tuple[type, ...]) -> list[str]:
        return [name for name, values in self.values.items() if _are_all(values, kind)]


@dataclass(frozen=True)
class Suggestion:
    """A task with the settings that name its columns, and why it was suggested."""

    task: str
    settings: Settings
    reason: str


def look_at(shards: Sequence[str], *, folder: str) -> FirstRows:
    """Read the first rows of the first shard; the list of a tar's members is kept in `folder`.

    Raises:
        InputError: nothing matches, or the shard is damaged or has no samples.
    """
    shard, columns = inspect_first_shard(CorpusSettings(shards=tuple(shards)), folder)
    if not shard.num_samples:
        raise InputError(f"{shard.uri} has no samples: leave it out")
    named = [name for name in columns if name != KEY]
    return FirstRows(shard, read_shard(shard, rows=first_rows(shard), columns=named).values)


def label_values(rows: FirstRows, column: str) -> list[Any]:
    """Return the labels of the first shard, or of its first 65,536 rows."""
    counted = range(min(_COUNTED_ROWS, rows.shard.num_samples))
    labels = read_shard(rows.shard, rows=counted, columns=[column]).values[column]
    return [label for label in labels if label is not None]


def suggest_task(rows: FirstRows, *, task: str | None = None) -> Suggestion:
    """Return the task that the columns suggest, or the columns for a given task.

    Raises:
        InputError: the columns fit no task, or not the given one.
    """
    if task is not None and task not in _SETTINGS_OF:
        raise InputError(f"--task {task}: expected one of {', '.join(sorted(_SETTINGS_OF))}")
    for name in _SUGGESTED if task is None else [task]:
        if (settings := _SETTINGS_OF[name](rows)) is not None:
            return Suggestion(name, settings, _reason(rows, settings))
    raise InputError(
        f"{rows.shard.uri} has the columns {', '.join(rows.values)}: not what"
        f" {'any task' if task is None else f'the task {task}'} reads. Rename columns, or write the"
        " section `task` as docs/configuration.md describes it"
    )


def _reason(rows: FirstRows, settings: Settings) -> str:
    """Say which columns are read, and which are not."""
    values = [str(value) for value in settings.values()]
    is_read = {
        name: name in values or any(f"{{{name}}}" in each for each in values)
        for name in rows.values
    }
    reason = f"the columns {', '.join(name for name in is_read if is_read[name])}"
    others = [name for name in is_read if not is_read[name]]
    return f"{reason}; not read: {', '.join(others)}" if others else reason


def _segmentation(rows: FirstRows) -> Settings | None:
    return _image_and_map(rows, "mask", _MASKS)


def _regression(rows: FirstRows) -> Settings | None:
    return _image_and_map(rows, "target", _TARGETS)


def _image_and_map(rows: FirstRows, key: str, known: Sequence[str]) -> Settings | None:
    beside = rows.column_named(known, among=rows.images)
    images = [name for name in rows.images if name != beside]
    return {"image": images[0], key: beside} if images and beside else None


def _image_text(rows: FirstRows) -> Settings | None:
    prompt, response = _prompt_and_response(rows)
    if not (rows.images and prompt and response):
        return None
    return {"image": rows.images[0], "prompt": prompt, "response": response}


def _classification(rows: FirstRows) -> Settings | None:
    label = rows.column_named(_LABELS, among=rows.labels)
    return {"image": rows.images[0], "label": label} if rows.images and label else None


def _images(rows: FirstRows) -> Settings | None:
    return {"image": rows.images[0]} if rows.images else None


def _preferences(rows: FirstRows) -> Settings | None:
    chosen, rejected = rows.column_named(["chosen"]), rows.column_named(["rejected"])
    if not chosen or not rejected:
        return None
    chats = chosen not in rows.texts or _is_json_list(rows.values[chosen][0])
    prompt = rows.column_named(["prompt", "question"])
    named = {"prompt": prompt} if prompt else {}
    return {"chosen": chosen, "rejected": rejected, **named, "chats": chats}


def _language(rows: FirstRows) -> Settings | None:
    if chat := rows.column_named(_CHATS):
        return {"messages": chat}
    prompt, response = _prompt_and_response(rows)
    if prompt and response:
        further = rows.column_named(
            _FURTHER, among=[name for name in rows.texts if name not in (prompt, response)]
        )
        template = {"template": f"{{prompt}}\n{{{further}}}\n"} if further else {}
        return {"prompt": prompt, "response": response, **template}
    if not rows.texts:
        return None
    return {"text": max(rows.texts, key=lambda name: sum(len(v or "") for v in rows.values[name]))}


def _prompt_and_response(rows: FirstRows) -> tuple[str | None, str | None]:
    prompt = rows.column_named(_PROMPTS, among=rows.texts)
    response = rows.column_named(_RESPONSES, among=[name for name in rows.texts if name != prompt])
    return prompt, response


_SETTINGS_OF: dict[str, Callable[[FirstRows], Settings | None]] = {
    "semantic_segmentation": _segmentation,
    "dense_regression": _regression,
    "image_text": _image_text,
    "image_classification": _classification,
    "masked_image_modeling": _images,
    "diffusion": _images,
    "preference_pairs": _preferences,
    "causal_lm": _language,
}
# In this order; a target that is an image, and noise, have to be asked for.
_SUGGESTED = [name for name in _SETTINGS_OF if name not in ("dense_regression", "diffusion")]


def encoded_bytes(value: Any) -> bytes | None:
    """Return the bytes of a value that may be an image of `datasets`, {bytes, path}."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _are_all(values: Sequence[Any], kind: type | tuple[type, ...]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(each, kind) for each in present)


def _are_images(values: Sequence[Any]) -> bool:
    images = [encoded_bytes(value) for value in values if value is not None]
    return bool(images) and all(each and kind_of_bytes(each) != "bin" for each in images)


def _is_json_list(value: Any) -> bool:
    try:
        return isinstance(json.loads(value), list)
    except (TypeError, ValueError):
        return False
