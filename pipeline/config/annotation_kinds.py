"""Kinds of annotations by name, with checked settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from attent_select.errors import InputError
from attent_select.plugins import load_plugin, plugin_names
from pipeline.config.extension_settings import EXTENSION_KEYS, MEASURED, extension_in
from pipeline.config.validation import SETTINGS, check
from trainers.annotation import FIELDS, AnnotationKind

KINDS: Final = "trainers.annotations"
# The key of an annotation in a configuration beside the settings of its kind.
KIND: Final = "kind"

_CARRIED: Final = {"string": "string", "integer": "int64", "number": "float32", "boolean": "bool"}

KindT = TypeVar("KindT")


class _KindSection(BaseModel, Generic[KindT]):
    """The settings of a kind, without unknown keys."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    settings: KindT


def load_kind(name: str, settings: Mapping[str, Any]) -> AnnotationKind:
    """Return a kind with its settings.

    Raises:
        InputError: there is no such kind, or a setting is wrong.
    """
    section = cast(type[_KindSection[Any]], _KindSection.__class_getitem__(kind_class(name)))
    source = f"annotation kind {name}"
    for key, field in FIELDS.items():
        if field in settings:
            raise InputError(f"{source}: {field}: unknown key, did you mean {key!r}?")
    values = {FIELDS.get(key, key): settings[key] for key in settings}
    keys = {field: key for key, field in FIELDS.items()}
    checked = check(section, {SETTINGS: values}, source=source, keys=keys)
    return cast(AnnotationKind, checked.settings)


def kind_class(name: str) -> type[Any]:
    """Return the class of a kind. Raises `InputError` if there is no such kind."""
    if "." not in name and name not in (known := plugin_names(KINDS)):
        raise InputError(f"kind {name}: expected {', '.join(known)}, or the dotted path of a class")
    plugin: type[Any] = load_plugin(KINDS, name, methods=("fit", "measure"))
    if not dataclasses.is_dataclass(plugin) or not hasattr(plugin, "further_columns"):
        raise InputError(f"kind {name}: expected the class of a kind, see docs/extending.md")
    return plugin


def required_settings(name: str) -> list[str]:
    """Return the settings of a kind that have no default.

    Raises:
        InputError: there is no such kind.
    """
    keys = {field: key for key, field in FIELDS.items()}
    return [
        keys.get(field.name, field.name)
        for field in dataclasses.fields(kind_class(name))
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def kind_of(entry: Mapping[str, Any]) -> AnnotationKind:
    """Return the kind of one annotation of a configuration, `{kind: NAME, …settings…}`."""
    extension_in(entry)  # checked with the kind
    others = (KIND, *EXTENSION_KEYS)
    return load_kind(entry[KIND], {key: entry[key] for key in entry if key not in others})


def column_names(name: str, entry: Mapping[str, Any]) -> list[str]:
    """Return the columns that an annotation of a configuration may have in SQL."""
    extended = extension_in(entry) is not None
    columns = (MEASURED,) if extended else kind_of(entry).further_columns
    return [name, *(f"{name}_{column}" for column in columns)]


def with_run_defaults(
    annotations: Mapping[str, Any], *, task: Mapping[str, Any], model: Any
) -> dict[str, Any]:
    """Return the section `annotations` with the run's tokenizer, model and task as defaults.

    Args:
        annotations: the section of a configuration.
        task: the section `task`.
        model: `path` in the section `model`; None for a model without saved weights.
    """
    return {
        name: _with_run_defaults(entry, task=task, model=model)
        for name, entry in annotations.items()
    }


def _with_run_defaults(entry: Any, *, task: Mapping[str, Any], model: Any) -> Any:
    """Return one annotation with the settings that its kind requires and the run has.

    The task of a model that the entry names has the tokenizer of that model.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get(KIND), str):
        return entry
    try:
        known = {field.name for field in dataclasses.fields(kind_class(entry[KIND]))}
    except InputError:  # reported with all other problems
        return entry
    required = required_settings(entry[KIND])
    defaults = {}
    if "tokenizer" in required and task.get("tokenizer") is not None:
        defaults["tokenizer"] = task["tokenizer"]
    uses_model = "model" in required or ("model" in known and entry.get("features") == "hidden")
    if uses_model and "task" in known:
        is_own = entry.get("model") not in (None, model)
        defaults["task"] = {
            key: value for key, value in task.items() if not (is_own and key == "tokenizer")
        }
    if uses_model and model is not None:
        defaults["model"] = model
    return {**entry, **{key: value for key, value in defaults.items() if key not in entry}}


def with_carried_columns(values: Any) -> Any:
    """Return the values of a configuration with annotations instead of `scoring.carry`.

    Older configurations name columns of the corpus there, with other names for the types.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("scoring"), Mapping):
        return values
    scoring = dict(values["scoring"])
    carried = scoring.pop("carry", {})
    if not isinstance(carried, Mapping):
        raise InputError("scoring.carry: expected columns with their types, {source: string}")
    annotations = {}
    for name, kind in carried.items():
        if kind not in _CARRIED:
            raise InputError(f"scoring.carry.{name}: expected {', '.join(_CARRIED)}, found {kind}")
        annotations[name] = {"kind": "column", "column": name, "value_type": _CARRIED[kind]}
    if not annotations:
        return {**values, "scoring": scoring}
    annotations |= values.get("annotations") or {}
    return {**values, "scoring": scoring, "annotations": annotations}
