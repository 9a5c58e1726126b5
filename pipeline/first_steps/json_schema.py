"""The JSON schema of a configuration, for editors: every key with its description.

Draft 7, which the language servers for YAML read. It is made from the classes that check a
configuration; what they check beyond types, bounds and names of keys is not in it.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from attent_select.plugins import load_plugin, plugin_names
from attent_select.selection.composition import Composition
from catalogs.mixture import MixturePart
from pipeline.config.annotation_kinds import KIND, KINDS
from pipeline.config.extension_settings import Extension
from pipeline.config.sections import PLUGIN_FIELDS, RunConfig, SelectionSection
from pipeline.config.shard_settings import CorpusSettings
from pipeline.config.task_reference import TASKS
from pipeline.first_steps.docstrings import attributes_of, described_attributes, first_sentence
from pipeline.first_steps.examples import SCHEMA_FILE, examples_folder
from trainers.annotation import FIELDS
from trainers.hf.lora import LoraSettings
from trainers.inputs.pixels import Pixels
from trainers.settings.model import ModelSettings

Schema = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"
_STRATEGIES = "attent_select.strategies"
# Keys whose default is of the run: a kind of annotation requires them, an entry does not.
_OF_RUN = ("task", "tokenizer", "model")
# The dotted path of a class of another package, whose settings are not known here.
_DOTTED = r"\."
_DEFAULT_STRATEGY = SelectionSection.model_fields["strategy_name"].default


def configuration_schema() -> Schema:
    """Return the JSON schema (draft 7) of a configuration file."""
    definitions: Schema = {}
    sections = {
        "corpus": _corpus_schema(definitions),
        "task": _plugins_schema(TASKS, "name", definitions),
        "model": _model_schema(definitions),
        "selection": _selection_schema(definitions),
        "annotations": _annotations_schema(definitions),
    }
    for name, field in RunConfig.model_fields.items():
        if name not in sections:
            sections[name] = _schema_of(field.annotation, definitions)
    descriptions = attributes_of(RunConfig)
    return {
        "$schema": _DRAFT,
        "title": "Configuration of a run of attent-select",
        "type": "object",
        "properties": {
            name: _with_description(sections[name], descriptions[name])
            for name in RunConfig.model_fields
        },
        # The section `selection` has a default that depends on the strategy.
        "required": [
            name
            for name, field in RunConfig.model_fields.items()
            if field.is_required() and name != "selection"
        ],
        "additionalProperties": False,
        "$defs": dict(sorted(definitions.items())),
    }


def _corpus_schema(definitions: Schema) -> Schema:
    part = _schema_of(MixturePart, definitions)
    mixture = {"type": "array", "items": part, "minItems": 1}
    return {"anyOf": [_schema_of(CorpusSettings, definitions), mixture]}


def _model_schema(definitions: Schema) -> Schema:
    schema = _schema_of(ModelSettings, definitions)
    properties = schema["properties"]
    adapter = {"anyOf": [_schema_of(LoraSettings, definitions), {"type": "null"}]}
    properties["lora"] = _with_description(adapter, properties["lora"]["description"])
    return schema


def _selection_schema(definitions: Schema) -> Schema:
    own = _schema_of(SelectionSection[Any], {})["properties"]
    beside = {key: own[key] for key in ("granularity", "budget_unit")}
    beside |= _schema_of(Composition, definitions)["properties"]
    fields = {field: key for key, field in PLUGIN_FIELDS.items()}
    return _plugins_schema(
        _STRATEGIES, "strategy", definitions, beside=beside, keys=fields, default=_DEFAULT_STRATEGY
    )


def _annotations_schema(definitions: Schema) -> Schema:
    fields = {field: key for key, field in FIELDS.items()}
    extension = _schema_of(Extension, definitions)["properties"]
    entry = _plugins_schema(
        KINDS, KIND, definitions, beside=extension, keys=fields, optional=_OF_RUN
    )
    return {"type": "object", "additionalProperties": entry}


def _plugins_schema(
    package: str,
    key: str,
    definitions: Schema,
    *,
    beside: Mapping[str, Schema] = MappingProxyType({}),
    keys: Mapping[str, str] = MappingProxyType({}),
    optional: Sequence[str] = (),
    default: str | None = None,
) -> Schema:
    """Return the schema of a section that names a plug-in and has its settings beside the name.

    Args:
        package: the package of the plug-ins.
        key: the key of the name.
        definitions: takes the schemas of inner classes.
        beside: keys of the section that do not depend on the plug-in.
        keys: names that users write for fields, where they differ.
        optional: settings that need not be given although they have no default.
        default: the plug-in of a section without a name.
    """
    plugins = {name: load_plugin(package, name) for name in plugin_names(package)}
    choices = []
    for name, plugin in plugins.items():
        schema = _schema_of(plugin, definitions)
        settings = {keys.get(name, name): each for name, each in schema["properties"].items()}
        required = {*schema.get("required", ())} - {*optional}
        named = {"properties": {key: {"const": name}}}
        allowed = {
            "properties": {key: True, **beside, **settings},
            "required": sorted(required),
            "additionalProperties": False,
        }
        choices.append(
            {"if": named if name == default else {**named, "required": [key]}, "then": allowed}
        )
    lines = [f"{name}: {first_sentence(plugin.__doc__ or '')}" for name, plugin in plugins.items()]
    names = {
        "anyOf": [{"enum": list(plugins)}, {"type": "string", "pattern": _DOTTED}],
        "description": "\n".join([*lines, "Or the dotted path of a class."]),
    }
    return {
        "type": "object",
        "properties": {key: names},
        "required": [] if default else [key],
        "allOf": choices,
    }


def _schema_of(kind: Any, definitions: Schema) -> Schema:
    """Return the schema of a class, or of a class or null; those of its inner classes are added."""
    schema = TypeAdapter(kind).json_schema()
    for name, inner in schema.pop("$defs", {}).items():
        definitions[name] = _describe(inner, described_attributes(inner.get("description", "")))
    # Tasks on images have the settings of `Pixels` under the same names.
    own = attributes_of(kind) if isinstance(kind, type) else {}
    return _describe(schema, {**attributes_of(Pixels), **own})


def _describe(schema: Schema, attributes: Mapping[str, str]) -> Schema:
    """Return the schema of a class with descriptions of its keys, and without other keys."""
    properties = schema.get("properties")
    if properties is None:
        return schema
    described = {
        name: _with_description(each, attributes.get(name, "")) for name, each in properties.items()
    }
    return {
        "type": "object",
        "description": first_sentence(schema.get("description", "")),
        "properties": described,
        "required": schema.get("required", []),
        "additionalProperties": False,
    }


def _with_description(schema: Schema, description: str) -> Schema:
    # Draft 7 reads nothing beside a reference.
    inner = {"allOf": [schema]} if "$ref" in schema else schema
    kept = {key: value for key, value in inner.items() if key not in ("title", "description")}
    return {"description": description, **kept} if description else kept


def store_schema() -> None:
    """Write the schema beside the examples of a checkout: `python -m` of this module."""
    text = json.dumps(configuration_schema(), indent=2, ensure_ascii=False) + "\n"
    (examples_folder() / SCHEMA_FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    store_schema()
