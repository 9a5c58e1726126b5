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
    values = {FIELDS.get(key, key): settings[key] for key in settings}
    checked = check(section, {SETTINGS: values}, source=f"annotation kind {name}")
    return cast(AnnotationKind, checked.settings)


def kind_class(name: str) -> type[Any]:
    """Return the class of a kind. Raises `InputError` if there is no such kind."""
    if "." not in name and name not in (known := plugin_names(KINDS)):
        raise InputError(f"kind {name}: expected {', '.join(known)}, or the dotted path of a class")
    plugin: type[Any] = load_plugin(KINDS, name, methods=("fit", "measure"))
    if not dataclasses.is_dataclass(plugin) or not hasattr(plugin, "further_columns"):
        raise InputError(f"kind {name}: expected the class of a kind, see docs/extending.md")
    return plugin


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


def with_tokenizers(annotations: Mapping[str, Any], *, tokenizer: str) -> dict[str, Any]:
    """Return the section `annotations` with `tokenizer` where a kind requires one and lacks it."""
    return {
        name: {**entry, "tokenizer": tokenizer} if _lacks_tokenizer(entry) else entry
        for name, entry in annotations.items()
    }


def _lacks_tokenizer(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get(KIND), str):
        return False
    if "tokenizer" in entry:
        return False
    try:
        fields = dataclasses.fields(kind_class(entry[KIND]))
    except InputError:  # reported with all other problems
        return False
    required = {field.name for field in fields if field.default is dataclasses.MISSING}
    return "tokenizer" in required


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
