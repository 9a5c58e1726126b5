"""Configuration files as plain values: reading YAML, and replacing keys by `key=value`."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from attent_select.errors import InputError
from catalogs import storage


def read_yaml(url: str) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        MissingError: there is no such file.
        InputError: it is not YAML, or not a mapping.
    """
    values = parse_yaml(storage.read(url), source=url)
    if not isinstance(values, dict):
        raise InputError(f"{url}: expected keys and values, found {type(values).__name__}")
    return values


def parse_yaml(text: str | bytes, *, source: str) -> Any:
    """Return the value of a YAML text; `source` names it in errors.

    Raises:
        InputError: it is not YAML, or a value contains itself.
    """
    try:
        values = yaml.safe_load(text)
        _check_finite([values])
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(
            f"{source}: a value contains itself (an alias `*x` inside its own `&x`), or is nested "
            "too deeply: write it out"
        ) from error
    return values


def replace_keys(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Replace one key of `values` by each `dotted.key=value`, whose value is YAML.

    Raises:
        InputError: an override has no `=`, or its key is inside something that is not a section.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: expected key=value, such as schedule.epochs=3")
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"--set {override}: {part} is not a section")
        section[name] = parse_yaml(text, source=f"--set {override}")
    return values


def _check_finite(value: Any) -> None:
    """Raise `RecursionError` for a value that contains itself."""
    for inner in value.values() if isinstance(value, Mapping) else value:
        if isinstance(inner, Mapping | list):
            _check_finite(inner)
