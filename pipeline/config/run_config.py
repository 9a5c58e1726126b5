"""The configuration of a run: from a YAML file or a run to a checked `RunConfig`, and run.yaml.

Everything is checked before any work, storage included. Each problem is one line with the path of
its key.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from attent_select.errors import InputError, MissingError
from attent_select.plugins import load_plugin
from catalogs import storage
from catalogs.layout import Layout
from pipeline.config import credentials
from pipeline.config.preflight import preflight_problems
from pipeline.config.sections import RunConfig, SelectionSection, run_settings_of
from pipeline.config.task_reference import TASKS, TaskReference
from pipeline.config.validation import all_problems, check
from pipeline.config.yaml_values import read_yaml, replace_keys
from trainers.settings import StreamingSettings

_STRATEGIES = "attent_select.strategies"
# May change when a run is resumed: where and how fast it runs, never its result.
_CHANGEABLE = (
    "run",
    "cluster",
    "scoring.max_failed_share",
    *(
        f"streaming.{field.name}"
        for field in fields(StreamingSettings)
        if field.name not in ("shuffle", "block_bytes")
    ),
)


def parse(values: Mapping[str, Any], *, source: str = "the configuration") -> RunConfig:
    """Return the checked configuration of plain values, with its plug-ins loaded.

    Raises:
        InputError: one line per problem. Storage is only checked if the values are valid.
    """
    values = {"selection": {}, **values}
    if lines := list(credentials.problems(values)):
        raise all_problems(lines, source=source)
    task = _load_plugin(values, "task", key="name", package=TASKS, source=source)
    values = _with_model_tokenizer(values, task)
    settings = run_settings_of(task, _load_strategy(values, source=source))
    config = check(settings, values, source=source)
    if lines := list(preflight_problems(config)):
        raise all_problems(lines, source=source)
    return config


def restore(values: Mapping[str, Any], *, task: TaskReference) -> RunConfig:
    """Return the configuration whose `resolved` values another process has checked."""
    strategy = _load_strategy(values, source="the configuration")
    task_section = {"name": task.name, "settings": task}
    settings = run_settings_of(TaskReference, strategy)
    return settings.model_validate({**values, "task": task_section})


def load(source: str, *, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration in a YAML file, or the frozen one of a run.

    Args:
        source: path or URL of a `.yaml` file, or of a run.
        overrides: `dotted.key=value` (the value is YAML), each replaces one key of the file.

    Raises:
        MissingError: there is no such file or run.
        InputError: it is not YAML, or one line per problem in it.
    """
    credentials.check_urls([source], what="the configuration")
    source = storage.normalise(source)
    if source.endswith((".yaml", ".yml")):
        return parse(replace_keys(read_yaml(source), overrides), source=source)
    frozen = _frozen_url(source)
    return parse(replace_keys(read_yaml(frozen) | {"run": source}, overrides), source=frozen)


def load_frozen(run: str) -> RunConfig:
    """Load the frozen configuration of a run as data: no code of its task is imported.

    The task is a `TaskReference` with its settings alone.

    Raises:
        MissingError: there is no such run.
        InputError: its run.yaml is damaged.
    """
    run = storage.normalise(run)
    url = _frozen_url(run)
    values = {"selection": {}, **read_yaml(url), "run": run}
    task = dict(values.get("task") or {})
    reference = TaskReference(name=task.pop("name", ""), settings=task, columns=(), hashed={})
    values["task"] = {"name": reference.name, "settings": reference}
    settings = run_settings_of(TaskReference, _load_strategy(values, source=url))
    return check(settings, values, source=url)


def _frozen_url(run: str) -> str:
    url = Layout(run).config
    if storage.info(url) is None:
        raise MissingError(
            f"{run} is not a run: {url} was not found. Start a run with "
            "`attent run CONFIG.yaml`, whose key `run` is the folder of the run"
        )
    return url


def frozen_section(run: str, name: str) -> dict[str, Any]:
    """Return a section of run.yaml; empty if the run has only a corpus."""
    url = Layout(storage.normalise(run)).config
    return {} if storage.info(url) is None else dict(read_yaml(url).get(name) or {})


def freeze(config: RunConfig) -> None:
    """Write run.yaml, unless it exists. Raises what `check_frozen` raises."""
    url = Layout(config.run).config
    if storage.info(url) is None:
        text = yaml.safe_dump(config.to_plain_values(), sort_keys=False, allow_unicode=True)
        storage.publish(url, text.encode())
    check_frozen(config)


def check_frozen(config: RunConfig) -> None:
    """Check that the run, if it was started, was started with these settings.

    Raises:
        InputError: it was not; names the keys that differ. Where it runs may change (`cluster`).
    """
    url = Layout(config.run).config
    if storage.info(url) is None:
        return
    before, after = dict(_leaves(read_yaml(url))), dict(_leaves(config.to_plain_values()))
    lines = [
        f"{key}: the run was started with {before.get(key)!r}, now it is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_changeable(key)
    ]
    if lines:
        lines.append("use the settings of run.yaml, or choose another `run`")
        raise all_problems(lines, source=url)


def _with_model_tokenizer(values: Mapping[str, Any], task: Any) -> Mapping[str, Any]:
    """Return the values with the model's tokenizer, for a task that takes one and names none."""
    names = [field.name for field in fields(task)] if is_dataclass(task) else []
    section, model = values["task"], values.get("model")
    path = model.get("path") if isinstance(model, Mapping) else None
    if "tokenizer" not in names or section.get("tokenizer") is not None or path is None:
        return values
    return {**values, "task": {**section, "tokenizer": path}}


def _load_strategy(values: Mapping[str, Any], *, source: str) -> Any:
    return _load_plugin(values, "selection", key="strategy", package=_STRATEGIES, source=source)


def _load_plugin(
    values: Mapping[str, Any], section: str, *, key: str, package: str, source: str
) -> Any:
    named = values.get(section)
    strategy_name = SelectionSection.model_fields["strategy_name"]
    default = strategy_name.default if section == "selection" else None
    name = named.get(key, default) if isinstance(named, Mapping) else None
    if not isinstance(name, str):
        raise InputError(f"{source}: {section}.{key}: is missing or is not a name")
    try:
        return load_plugin(package, name)
    except InputError as error:
        raise InputError(f"{source}: {section}.{key}: {error}") from error


def _leaves(value: Any, *, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, path=f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _is_changeable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _CHANGEABLE)
