"""Configuration files as plain values: reading YAML, and replacing keys by `key=value`."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from attent_select.errors import InputError
from catalogs import storage

_DIGEST_LINE = b"# content digest: "
# A few hundred bytes of aliases of aliases can stand for billions of values.
_MAX_BYTES = 4 << 20
_MAX_VALUES = 100_000


def read_yaml(url: str) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        MissingError: there is no such file.
        InputError: it is not YAML, or not a mapping, or not what `dump_frozen` wrote.
    """
    content = storage.read(url)
    _check_digest(content, url=url)
    values = parse_yaml(content, source=url)
    if not isinstance(values, dict):
        raise InputError(f"{url}: expected keys and values, found {type(values).__name__}")
    return values


def dump_frozen(values: Mapping[str, Any]) -> bytes:
    """Return a YAML text whose first line is a digest: a changed byte is found."""
    content = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode()
    return _DIGEST_LINE + _digest(content) + b"\n" + content


def _check_digest(content: bytes, *, url: str) -> None:
    line, _, text = content.partition(b"\n")
    if line.startswith(_DIGEST_LINE) and line.removeprefix(_DIGEST_LINE) != _digest(text):
        raise InputError(
            f"{url} was changed after it was written: it is damaged, or was edited. Restore it, or "
            "delete its first line if you edited it on purpose"
        )


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).hexdigest().encode()


def parse_yaml(text: str | bytes, *, source: str) -> Any:
    """Return the value of a YAML text; `source` names it in errors.

    Raises:
        InputError: it is not YAML, or a value contains itself.
    """
    if len(text) > _MAX_BYTES:
        raise InputError(f"{source}: {len(text)} bytes exceed the limit of {_MAX_BYTES}")
    try:
        return _construct(text, source=source)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(
            f"{source}: a value contains itself (an alias `*x` inside its own `&x`), or is nested "
            "too deeply: write it out"
        ) from error


def _construct(text: str | bytes, *, source: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (num_values := _num_values(node, {})) > _MAX_VALUES:
            raise InputError(
                f"{source}: its aliases (*x) expand to {num_values} values, the limit is "
                f"{_MAX_VALUES}: write it without aliases of aliases"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def replace_keys(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Replace one key of `values` by each `dotted.key=value`, whose value is YAML.

    Raises:
        InputError: an override has no `=`, or its key is inside something that is not a section.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--set {override}: expected key=value, such as schedule.epochs=3")
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"--set {override}: {part} is not a section")
        section[name] = parse_yaml(text, source=f"--set {override}")
    return values


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values in a node with its aliases expanded.

    Raises:
        RecursionError: it contains itself.
    """
    if id(node) not in known:
        children = [node.value] if isinstance(node, yaml.SequenceNode) else node.value
        inner = itertools.chain.from_iterable(children) if _has_children(node) else ()
        known[id(node)] = 1 + sum(_num_values(each, known) for each in inner)
    return known[id(node)]


def _has_children(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode)
