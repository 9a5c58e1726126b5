"""Validation of plain values: a checked model, or one `InputError` with a line per problem."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from attent_select.errors import InputError

SettingsT = TypeVar("SettingsT")

# A section with a plug-in has the plug-in's own settings in the key `settings`, and the composition
# of a strategy in `composition`. In the file all keys stand side by side, and so they must in
# messages.
SETTINGS = "settings"
INSIDE = (SETTINGS, "composition")

_EXTRA = ("extra_forbidden", "unexpected_keyword_argument")
_WRITTEN = {bool: "true or false", int: "a whole number", float: "a number"}
# YAML 1.1 reads `1.0e-3` as a number and `1e-3` as a string.
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
# The last key of a problem's place where a value has a choice of types.
_CHOICE = re.compile(r"int|float|literal\[.*\]")
_FIRST_WORD = re.compile(r"[a-z_]+")


class Section(BaseModel):
    """A frozen section of settings, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def check(
    model: type[SettingsT],
    values: Mapping[str, Any],
    *,
    source: str,
    keys: Mapping[str, str] | None = None,
) -> SettingsT:
    """Return `values` as a `model`: a pydantic model or a dataclass.

    Args:
        model: what the values are.
        values: of its fields.
        source: names the values in messages.
        keys: names that users write for fields, where they differ.

    Raises:
        InputError: one line per problem, each with the key's path.
    """
    adapter, names = TypeAdapter(model), keys or {}
    try:
        checked = adapter.validate_python(values)
    except ValidationError as error:
        problems = _join_choices(_of_chosen_types(error.errors(include_url=False)))
        lines = [_line(model, problem, names) for problem in problems]
        raise all_problems(lines, source=source) from None
    if lines := list(_coerce(values, adapter.dump_python(checked), names, path="")):
        raise all_problems(lines, source=source)
    return checked


def all_problems(lines: Iterable[str], *, source: str) -> InputError:
    """Return one error of all `lines`, each problem once."""
    unique = list(dict.fromkeys(" ".join(line.split()) for line in lines))
    if len(unique) == 1:
        return InputError(f"{source}: {unique[0]}")
    return InputError("\n  ".join([f"{source}: {len(unique)} problems", *unique]))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `did you mean 'x'?`, or the known words if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"


def keys_of(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys that stand for the fields of a section in its validated form."""
    return tuple(field.alias or name for name, field in section.model_fields.items())


def _line(model: type[Any], problem: Mapping[str, Any], names: Mapping[str, str]) -> str:
    location, kind = _without_types(model, problem["loc"]), problem["type"]
    parts = [str(part) for part in location if part not in INSIDE]
    path = ".".join(names.get(part, part) for part in parts) or "the file"
    if kind in _EXTRA:
        known = [names.get(key, key) for key in _keys_at(model, location[:-1])]
        return f"{path}: unknown key, {did_you_mean(str(location[-1]), known)}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "value_error":
        return _own_message(model, location, path, str(problem["ctx"]["error"]))
    message = problem["msg"].replace("Input should be", "expected").replace("tuple", "list")
    return f"{path}: {message}, found {problem['input']!r}"


def _of_chosen_types(problems: Sequence[Any]) -> list[Any]:
    """Return the problems without those of the other type where a value may be a boolean or a
    mapping: a mapping is not a wrong boolean.
    """

    def has_other(problem: Any) -> bool:
        place = problem["loc"][:-1]
        return any(p["loc"][: len(place)] == place and p is not problem for p in problems)

    unmeant = [
        problem
        for problem in problems
        if (problem["type"] == "bool_type" and isinstance(problem["input"], Mapping))
        or problem["type"] == "dataclass_type"
    ]
    return [each for each in problems if each not in unmeant or not has_other(each)]


def _join_choices(problems: Sequence[Any]) -> list[Any]:
    """Return the problems, those of one value that is a number or a word as one."""
    joined: dict[Sequence[str | int], Any] = {}
    for problem in problems:
        place = problem["loc"]
        if not _CHOICE.fullmatch(str(place[-1]) if place else ""):
            joined[*place, len(joined)] = problem
        elif place[:-1] in joined:
            other = problem["msg"].removeprefix("Input should be ")
            joined[place[:-1]]["msg"] += f" or {other}"
        else:
            message = problem["msg"].partition(",")[0]
            joined[place[:-1]] = {**problem, "loc": place[:-1], "msg": message}
    return list(joined.values())


def _without_types(model: type[Any], location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return a location without the names of types, which it has where there is a choice."""
    keys: list[str | int] = []
    for part in location:
        section = _section_at(model, keys) if keys else None
        if section is None or part not in ("bool", section.__name__):
            keys.append(part)
    return tuple(keys)


def _coerce(before: Any, after: Any, names: Mapping[str, str], *, path: str) -> Iterator[str]:
    """Yield values that pydantic converted to a number or a boolean from another type.

    Its strict mode would refuse them, but also a list for a tuple and a mapping for a dataclass.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in before.keys() & after.keys():
            name = names.get(key, key)
            inner = f"{path}.{name}" if path else name
            yield from _coerce(before[key], after[key], names, path=inner)
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for old, new in zip(before, after, strict=False):
            yield from _coerce(old, new, names, path=path)
    elif type(after) in _WRITTEN and not _is_written_as(before, type(after)):
        yield f"{path}: expected {_WRITTEN[type(after)]}, found {before!r}"


def _is_written_as(value: Any, kind: type) -> bool:
    if kind is float and isinstance(value, str):
        return bool(_EXPONENT.fullmatch(value))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _own_message(model: type[Any], location: Sequence[str | int], path: str, message: str) -> str:
    """Add the path to a message, which may start with a field: `start: 1.4 is outside (0, 1]`."""
    word = _FIRST_WORD.match(message)
    names_a_field = word is not None and word.group() in _keys_at(model, location)
    if names_a_field:
        return f"{path}.{message}" if set(location) - set(INSIDE) else message
    return f"{path}: {message}"


def _keys_at(model: type[Any], location: Sequence[str | int]) -> list[str]:
    """Return the keys that the file may have in the section at `location`."""
    return _flat_keys(_section_at(model, location))


def _section_at(model: type[Any], location: Sequence[str | int]) -> Any:
    """Return the settings class at `location`; None if there is none."""
    section: Any = model
    for part in location:
        if part not in INSIDE:
            section = _class_at(section, str(part))
    return section


def _class_at(section: Any, key: str) -> Any:
    """Return the settings class of a key that the file may have in a section."""
    known = _fields(section)
    if key in known:
        return _class_in(known[key])
    inside = (_class_in(known[name]) for name in INSIDE if name in known)
    return next((inner for each in inside if (inner := _class_at(each, key))), None)


def _flat_keys(section: Any) -> list[str]:
    keys: list[str] = []
    for name, annotation in _fields(section).items():
        keys += _flat_keys(_class_in(annotation)) if name in INSIDE else [name]
    return keys


def _fields(section: Any) -> dict[str, Any]:
    if isinstance(section, type) and issubclass(section, BaseModel):
        annotations = (field.annotation for field in section.model_fields.values())
        return dict(zip(keys_of(section), annotations, strict=True))
    if dataclasses.is_dataclass(section):
        hints = typing.get_type_hints(section)
        return {field.name: hints[field.name] for field in dataclasses.fields(section)}
    return {}


def _class_in(annotation: Any) -> Any:
    """Return the settings class in `X` or `X | None`."""
    choices = [annotation, *typing.get_args(annotation)]
    return next((choice for choice in choices if _fields(choice)), None)
