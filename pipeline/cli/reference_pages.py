"""Pages of the documentation that are made from the code: commands, keys, and names in Python.

`python -m pipeline.cli.reference_pages docs` writes them.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command

from pipeline.cli.api_page import api_page
from pipeline.cli.app import app
from pipeline.first_steps.json_schema import Schema, configuration_schema

_COMMON = ("as_json", "verbose", "quiet", "log_file")


def commands_page() -> str:
    """Return the page about the commands: arguments and options of each."""
    return "\n".join(_lines_of_commands(get_command(app))) + "\n"


def keys_page() -> str:
    """Return the page about the keys of a configuration, from its JSON schema."""
    schema = configuration_schema()
    lines = [
        "# Keys of a configuration",
        "",
        "Made from the code; `attent schema` prints the same for editors.",
        *_lines_of_section(schema, "", schema["$defs"]),
    ]
    return "\n".join(lines) + "\n"


def _lines_of_commands(group: Any) -> Iterator[str]:
    yield from (
        "# Commands",
        "",
        "Made from the code; `attent COMMAND --help` prints the same.",
        "",
    )
    yield "Every command also has `--json`, `--verbose`, `--quiet`, `--log-file` and `--help`."
    for name, command in group.commands.items():
        own = [each for each in command.params if each.name not in _COMMON]
        arguments = [each.metavar for each in own if each.param_type_name == "argument"]
        options = [each for each in own if each.param_type_name == "option"]
        yield from ("", f"## {name}", "", " ".join((command.help or "").split()), "")
        yield from ("```text", " ".join(["attent", name, "[OPTIONS]", *arguments]), "```")
        if options:
            yield from ("", "| option | meaning | default |", "| --- | --- | --- |")
        for option in options:
            value = f" {option.metavar}" if option.metavar else ""
            is_plain = isinstance(option.default, str | int | float) and option.default is not False
            default = f"`{option.default}`" if is_plain and option.default != "" else ""
            yield f"| `{', '.join(option.opts)}{value}` | {_cell(option.help or '')} | {default} |"


def _lines_of_section(
    schema: Schema, path: str, definitions: Mapping[str, Schema]
) -> Iterator[str]:
    """Yield a table of the keys of a section, one for each plug-in, and then those inside it."""
    sections: dict[str, Schema] = {}
    for title, keys in _tables(schema):
        rows = [
            f"| `{key}` | {_type_of(each, definitions)} | {_default_of(each)} |"
            f" {_cell(each.get('description', ''))} |"
            for key, each in keys.items()
        ]
        if rows:
            yield from ("", f"## {path or 'Sections'}{title}", "")
            yield from ("| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows)
        for key, each in keys.items():
            inner = f"{path}.{key}".lstrip(".")
            for section in _objects_in(each, definitions):
                sections[inner] = section
            named = each.get("additionalProperties")
            if isinstance(named, dict) and "properties" in named:
                sections[f"{inner}.NAME"] = named
    for inner, section in sections.items():
        yield from _lines_of_section(section, inner, definitions)


def _tables(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the keys of a section, then the title and the own keys of each plug-in."""
    choices = [choice for choice in schema.get("allOf", ()) if "then" in choice]
    keys = [
        {name: each for name, each in choice["then"]["properties"].items() if each is not True}
        for choice in choices
    ]
    shared = set.intersection(*map(set, keys)) if keys else set()
    of_all = {name: each for name, each in keys[0].items() if name in shared} if keys else {}
    yield "", schema.get("properties", {}) | of_all
    for choice, own in zip(choices, keys, strict=True):
        ((key, named),) = choice["if"]["properties"].items()
        rest = {name: each for name, each in own.items() if name not in shared}
        if rest:
            yield f", {key}: {named['const']}", rest


def _alternatives(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[Schema]:
    """Yield what a value may be, without references."""
    choices = schema.get("anyOf") or schema.get("allOf") or ()
    if "$ref" in schema:
        yield from _alternatives(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    elif choices and "properties" not in schema:
        for choice in choices:
            yield from _alternatives(choice, definitions)
    else:
        yield schema


def _objects_in(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[Schema]:
    return (each for each in _alternatives(schema, definitions) if "properties" in each)


def _type_of(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    kinds = []
    for each in _alternatives(schema, definitions):
        if "enum" in each:
            kinds += [f"`{value}`" for value in each["enum"]]
        elif "const" in each:
            kinds.append(f"`{each['const']}`")
        elif "properties" in each or each.get("type") == "object":
            kinds.append("section")
        elif each.get("type") != "null":
            kind = str(each.get("type", "any"))
            kinds.append("list" if kind == "array" else kind)
    return " or ".join(dict.fromkeys(kinds))


def _default_of(schema: Schema) -> str:
    default = schema.get("default")
    return "" if default is None else f"`{json.dumps(default)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "commands.md").write_text(commands_page(), encoding="utf-8")
    (folder / "keys.md").write_text(keys_page(), encoding="utf-8")
    (folder / "api.md").write_text(api_page(), encoding="utf-8")
