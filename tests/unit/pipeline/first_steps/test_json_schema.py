"""The JSON schema of configurations: it accepts every example, and finds wrong keys and values."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.first_steps.examples import SCHEMA_LINE
from pipeline.first_steps.json_schema import configuration_schema

EXAMPLES = sorted((Path(__file__).parents[4] / "examples").glob("*.yaml"))
MINIMAL: dict[str, Any] = {
    "run": "runs/one",
    "corpus": {"shards": ["a.parquet"]},
    "task": {"name": "causal_lm", "text": "text"},
    "model": {"path": "model"},
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return configuration_schema()


def problems(schema: dict[str, Any], values: dict[str, Any]) -> list[str]:
    found = jsonschema.Draft7Validator(schema).iter_errors(values)
    return [".".join(map(str, error.absolute_path)) for error in found]


def test_the_stored_schema_is_the_one_that_the_code_makes(schema: dict[str, Any]) -> None:
    # After a change of a setting: python -m pipeline.first_steps.json_schema
    stored = json.loads((EXAMPLES[0].parent / "attent.schema.json").read_text())
    assert stored == schema


def test_it_is_a_schema_of_draft_7(schema: dict[str, Any]) -> None:
    jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_names_the_schema_and_is_valid(example: Path, schema: dict[str, Any]) -> None:
    text = example.read_text()
    assert text.startswith(f"{SCHEMA_LINE}\n")
    assert problems(schema, yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    "section",
    [
        {"corpus": [{"name": "web", "shards": ["a.parquet"], "weight": 0.5}]},
        {"selection": {"strategy": "key", "key": "relevance", "where": "num_units > 3"}},
        {"selection": {"temperature": 0.5}},
        {"selection": {"strategy": "package.module.Strategy", "anything": 1}},
        {"annotations": {"relevance": {"kind": "ngram"}, "prior": {"kind": "loss", "fit": {}}}},
        {"schedule": {"budget": {"units": 1000}, "pool": {"multiple": 3}}},
        {"model": {"path": "m", "lora": {"rank": 4}, "new_weights": ["lm_head.weight"]}},
        {"task": {"name": "my_package.tasks.MyTask", "column": "x"}},
    ],
)
def test_a_right_section_is_valid(schema: dict[str, Any], section: dict[str, Any]) -> None:
    assert problems(schema, {**MINIMAL, **section}) == []


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"shedule": {}}, ""),
        ({"selection": {"strategy": "hard", "temperature": 1.0}}, "selection"),
        ({"selection": {"strategy": "harder"}}, "selection.strategy"),
        ({"task": {"name": "causal_lm", "txt": "text"}}, "task"),
        ({"task": {"text": "text"}}, "task"),
        ({"annotations": {"a": {"kind": "ngram", "bit": 3}}}, "annotations.a"),
        ({"training": {"batch_size": "many"}}, "training.batch_size"),
        ({"scoring": {"max_failed_share": 2}}, "scoring.max_failed_share"),
        ({"model": {"path": "m", "lora": {"ranks": 4}}}, "model.lora"),
    ],
)
def test_a_wrong_section_is_found(
    schema: dict[str, Any], section: dict[str, Any], where: str
) -> None:
    assert where in problems(schema, {**MINIMAL, **section})


def keys_without_description(schema: Any, path: str = "") -> list[str]:
    if isinstance(schema, list):
        return [key for each in schema for key in keys_without_description(each, path)]
    if not isinstance(schema, dict):
        return []
    keys = []
    for name, each in schema.get("properties", {}).items():
        if isinstance(each, dict) and "const" not in each and not each.get("description"):
            keys.append(f"{path}.{name}")
    for name, each in schema.items():
        keys += keys_without_description(each, f"{path}.{name}")
    return keys


def test_every_key_is_described(schema: dict[str, Any]) -> None:
    assert keys_without_description(schema) == []
