"""Classes of a run's labels: the class number of each label, kept in run.yaml (task.classes)."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attent_select.errors import InputError
from catalogs import Corpus, storage
from catalogs.layout import Layout
from catalogs.shard_format import Shard
from catalogs.shards import read_shard
from catalogs.stored_rows import has_schema, schema_of
from catalogs.tables.class_labels import class_names, label_text, sorted_classes
from pipeline.cluster import run_tasks
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.config.task_reference import TaskReference
from pipeline.progress import progress
from pipeline.runs.setup import Cluster

# A column with more different values does not hold classes.
_MAX_CLASSES: Final = 100_000
_CLASSES, _LABEL = "classes", "label"
# Rows that show what kind of labels a corpus has, and rows in memory.
_FIRST_ROWS: Final = 16
_ROWS: Final = 1 << 16

_log = logging.getLogger("attent.pipeline.label_classes")


def with_frozen_classes(config: RunConfig) -> RunConfig:
    """Return the configuration with the classes that the run was started with, if it was."""
    if _settings(config).get(_CLASSES, ()) is not None:
        return config
    return with_classes(config, run_config.frozen_section(config.run, "task").get(_CLASSES))


def with_corpus_classes(config: RunConfig, *, cluster: Cluster) -> RunConfig:
    """Return the configuration of a new run with the classes that its corpus has.

    Their names are those of a `ClassLabel` of `datasets`, or the different labels, if some are text
    or fractions. Other labels are class numbers.

    Raises:
        InputError: shards have other names for the same numbers, or the labels are not classes.
    """
    if (column := _column_without_classes(config)) is None:
        return config
    shards = Corpus.open(config.run).shards
    first = _labels_of(_LabelTask(shards[0], column, max_rows=_FIRST_ROWS))
    if first.names is None and not first.texts:
        return config
    tasks = [_LabelTask(shard, column) for shard in shards]
    with progress("reading labels", total=len(tasks), unit="shards") as advance:
        names = _names(run_tasks(cluster(), _labels_of, tasks), column, advance)
    if names is not None:
        _log.info("task.classes: %d classes from the column %s", len(names), column)
    return with_classes(config, names)


def with_shard_classes(config: RunConfig, shard: Shard) -> RunConfig:
    """Return `with_corpus_classes` of one shard, read in this process."""
    if (column := _column_without_classes(config)) is None:
        return config
    task = _LabelTask(shard, column)
    return with_classes(config, _names([(task, _labels_of(task))], column, lambda _: None))


def with_classes(config: RunConfig, names: Sequence[str] | None) -> RunConfig:
    """Return the configuration with these `task.classes`; unchanged without them."""
    if names is None:
        return config
    task = config.task.task
    if isinstance(task, TaskReference):
        values = {_CLASSES: list(names)}
        update = {"settings": task.settings | values, "hashed": task.hashed | values}
        task = task.model_copy(update=update)
    else:
        task = dataclasses.replace(task, classes=tuple(names))
    return config.model_copy(update={"task": config.task.model_copy(update={"task": task})})


def classes_of(config: RunConfig) -> Sequence[str] | None:
    """Return `task.classes`."""
    return _settings(config).get(_CLASSES)


def _settings(config: RunConfig) -> dict[str, Any]:
    task = config.task.task
    if isinstance(task, TaskReference):
        return task.settings
    names = [field.name for field in dataclasses.fields(task)]
    return {name: getattr(task, name) for name in names}


@dataclass(frozen=True)
class _LabelTask:
    shard: Shard
    column: str
    max_rows: int | None = None

    def __str__(self) -> str:
        return f"labels of shard {self.shard.shard_id} ({self.shard.uri})"


@dataclass(frozen=True)
class _Labels:
    """The names that a shard has for class numbers, or else the texts of its labels."""

    names: tuple[str, ...] | None
    texts: frozenset[str] = frozenset()
    are_numbers: bool = True


def _labels_of(task: _LabelTask) -> _Labels:
    shard, column = task.shard, task.column
    names = class_names(schema_of(shard).metadata, column) if has_schema(shard) else None
    if names is not None:
        return _Labels(names)
    texts: set[str] = set()
    are_numbers = True
    end = min(shard.num_samples, task.max_rows or shard.num_samples)
    for start in range(0, end, _ROWS):
        rows = range(start, min(end, start + _ROWS))
        for label in read_shard(shard, rows=rows, columns=(column,)).values[column]:
            if (text := label_text(label)) is not None:
                texts.add(text)
                are_numbers = are_numbers and isinstance(label, float) and label.is_integer()
        if len(texts) > _MAX_CLASSES:
            break
    return _Labels(None, frozenset(texts), are_numbers)


def _column_without_classes(config: RunConfig) -> str | None:
    """Return the label column of a run that is not started and has no classes."""
    settings = _settings(config)
    is_started = storage.info(Layout(config.run).config) is not None
    return None if settings.get(_CLASSES, ()) is not None or is_started else settings.get(_LABEL)


def _names(
    results: Iterable[tuple[_LabelTask, _Labels]], column: str, advance: Callable[[int], object]
) -> tuple[str, ...] | None:
    names: dict[tuple[str, ...] | None, Shard] = {}
    texts: set[str] = set()
    are_numbers = True
    for task, labels in results:
        names.setdefault(labels.names, task.shard)
        texts |= labels.texts
        are_numbers = are_numbers and labels.are_numbers
        _check_classes(names, texts, column)
        advance(1)
    (common,) = names
    return common if common is not None or are_numbers else sorted_classes(texts)


def _check_classes(
    names: dict[tuple[str, ...] | None, Shard], texts: set[str], column: str
) -> None:
    if len(names) > 1:
        first, second = list(names.values())[:2]
        raise InputError(
            f"task.classes: the column {column!r} has other class names in {first.uri} than in"
            f" {second.uri}, so that a number means two classes. Convert the labels to text, or set"
            " task.classes if the numbers are right"
        )
    if len(texts) > _MAX_CLASSES:
        raise InputError(
            f"task.classes: the column {column!r} has more than {_MAX_CLASSES} different values:"
            " expected a column of classes in task.label"
        )
