"""Annotations that a run makes although its configuration does not name them.

* `duplicates`, exact ones, where `selection.distinct` names it, as it does for a static key unless
  it is set;
* `contamination`, of a run with a target, or where the selection reads it;
* `length`, for a budget in units, if nothing else counts units.
"""

from collections.abc import Iterator
from typing import Any, Final

from pipeline.config.annotation_kinds import KIND
from pipeline.config.sections import RunConfig

DUPLICATES: Final = "duplicates"
CONTAMINATION: Final = "contamination"
LENGTH: Final = "length"

# Settings of tasks that name the column whose content a held-out example must not share.
_CONTENT_SETTINGS: Final = ("image", "messages", "text")


def automatic_annotations(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return name → entry, as in the section `annotations`, without those of the section."""
    entries = dict(_entries(config))
    return {name: entries[name] for name in entries if name not in config.annotations}


def automatic_columns(config: RunConfig) -> list[str]:
    """Return the columns of these annotations that a selection may read."""
    names = {
        DUPLICATES: [f"{DUPLICATES}_rank", f"{DUPLICATES}_size"],
        CONTAMINATION: [CONTAMINATION, f"{CONTAMINATION}_exact"],
        LENGTH: [LENGTH, f"{LENGTH}_num_units"],
    }
    return [column for name in automatic_annotations(config) for column in names[name]]


def _entries(config: RunConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    section = config.selection
    if section.composition.distinct == DUPLICATES:
        yield DUPLICATES, {KIND: "duplicates", "column": _one_or_all(config.task.task.columns)}
    has_examples = config.target is not None or config.evaluation is not None
    is_read = any(name.partition("_")[0] == CONTAMINATION for name in section.columns)
    if config.target is not None or (is_read and has_examples):
        yield CONTAMINATION, {KIND: "contamination", "column": _content_column(config)}
    counts_units = section.budget_unit == "units" and not config.needs_losses
    if counts_units or config.schedule.counts_units:
        yield LENGTH, _length_entry(config)


def _content_column(config: RunConfig) -> str | list[str]:
    settings = config.task.model_dump(mode="json")
    named = (settings.get(name) for name in _CONTENT_SETTINGS)
    for name in named:
        if isinstance(name, list) and name:
            return str(name[0])
        if isinstance(name, str):
            return name
    return _one_or_all(config.task.task.columns)


def _length_entry(config: RunConfig) -> dict[str, Any]:
    section = config.task.model_dump(mode="json")
    tokenizer = section.get("tokenizer") or section.get("processor") or ""
    return {KIND: "length", "tokenizer": tokenizer, "task": section}


def _one_or_all(columns: tuple[str, ...]) -> str | list[str]:
    return columns[0] if len(columns) == 1 else list(columns)
