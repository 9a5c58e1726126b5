"""Where a run's configuration comes from, what is wrong with it, and freezing it.

YAML → checked `RunConfig`, and run.yaml. Everything is checked before any work, storage
included, and each problem is one line with the key's path.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import polars as pl
import yaml

from attent_select.errors import AttentError, InputError, MissingError
from attent_select.plugins import load_plugin
from attent_select.schema import FUNCTIONAL_GRADIENT, LOSSES
from attent_select.selection.select import select
from catalogs import storage
from catalogs.layout import Layout
from pipeline.config import credentials
from pipeline.config.memory import check_memory_limit
from pipeline.config.sections import RunConfig, RunSettings, SelectionSection
from pipeline.config.task_reference import TASKS, TaskReference
from pipeline.config.validation import all_problems, check
from trainers.settings import StreamingSettings

# What may change when a run goes on: where and how fast it runs, never what comes out.
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
    """A configuration from plain values, with its plug-ins loaded and everything checked.

    Raises:
        InputError: one line per problem. Storage is only looked at when the values are sound.
    """
    values = {"selection": {}, **values}
    if lines := list(credentials.problems(values)):
        raise all_problems(lines, source=source)
    task = _plugin(values, "task", key="name", package=TASKS, source=source)
    strategy = _strategy(values, source=source)
    config = check(RunSettings[task, strategy], values, source=source)
    if lines := list(_unusable(config)):
        raise all_problems(lines, source=source)
    return config


def checked_before(values: Mapping[str, Any], *, task: TaskReference) -> RunConfig:
    """A configuration from what `resolved` gave in another process, which has checked it."""
    strategy = _strategy(values, source="the configuration")
    named = {"name": task.name, "settings": task}
    settings = RunSettings[TaskReference, strategy]
    return settings.model_validate({**values, "task": named})


def load(source: str, *, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file, or the frozen one of a run.

    Args:
        source: path or URL of a `.yaml` file, or of a run.
        overrides: `dotted.key=value` (the value is YAML), each replacing one key of the file.

    Raises:
        MissingError: there is no such file or run.
        InputError: it is not YAML, or one line per problem in it.
    """
    credentials.check_urls([source], what="the configuration")
    source = storage.normalise(source)
    if source.endswith((".yaml", ".yml")):
        return parse(overridden(_yaml(source), overrides), source=source)
    frozen = _frozen_url(source)
    return parse(overridden(_yaml(frozen) | {"run": source}, overrides), source=frozen)


def load_frozen(run: str) -> RunConfig:
    """Load the frozen configuration of a run as data: no code of its task is imported.

    The task is a `TaskReference` with its settings alone.

    Raises:
        MissingError: there is no such run.
        InputError: its run.yaml is damaged.
    """
    run = storage.normalise(run)
    url = _frozen_url(run)
    values = {"selection": {}, **_yaml(url), "run": run}
    task = dict(values.get("task") or {})
    reference = TaskReference(name=task.pop("name", ""), settings=task, columns=(), hashed={})
    values["task"] = {"name": reference.name, "settings": reference}
    strategy = _strategy(values, source=url)
    config: RunConfig = check(RunSettings[TaskReference, strategy], values, source=url)
    return config


def _frozen_url(run: str) -> str:
    url = Layout(run).config
    if storage.info(url) is None:
        raise MissingError(
            f"{run}: no run.yaml there, so it is not a run; start one with "
            "`attent run CONFIG.yaml` whose key `run` names this place"
        )
    return url


def frozen_section(run: str, name: str) -> dict[str, Any]:
    """A section of run.yaml as it stands there; empty where there is none, as in a corpus alone."""
    url = Layout(storage.normalise(run)).config
    return {} if storage.info(url) is None else dict(_yaml(url).get(name) or {})


def freeze(config: RunConfig) -> None:
    """Writes run.yaml, once. Raises what `check_frozen` raises."""
    url = Layout(config.run).config
    if storage.info(url) is None:
        text = yaml.safe_dump(config.resolved(), sort_keys=False, allow_unicode=True)
        storage.publish(url, text.encode())
    check_frozen(config)


def check_frozen(config: RunConfig) -> None:
    """Whether the run, if it was started, was started with these settings.

    Raises:
        InputError: it was not; names the keys that differ. Where it runs may change (`cluster`).
    """
    url = Layout(config.run).config
    if storage.info(url) is None:
        return
    before, after = dict(_leaves(_yaml(url))), dict(_leaves(config.resolved()))
    lines = [
        f"{key}: the run was started with {before.get(key)!r}, now it is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_changeable(key)
    ]
    if lines:
        lines.append("go on with the settings of run.yaml, or choose another `run`")
        raise all_problems(lines, source=url)


def _yaml(url: str) -> dict[str, Any]:
    values = _parsed_yaml(storage.read(url), source=url)
    if not isinstance(values, dict):
        raise InputError(f"{url}: expected keys and values, found {type(values).__name__}")
    return values


def _parsed_yaml(text: str | bytes, *, source: str) -> Any:
    try:
        values = yaml.safe_load(text)
        _check_ends([values])
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(
            f"{source}: a value contains itself (an alias `*x` inside its own `&x`), or is nested "
            "too deeply: write it out"
        ) from error
    return values


def _check_ends(value: Any) -> None:
    """Raises RecursionError for a value that contains itself."""
    for inner in value.values() if isinstance(value, Mapping) else value:
        if isinstance(inner, Mapping | list):
            _check_ends(inner)


def overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each `dotted.key=value` (the value is YAML) put in its place."""
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
        section[name] = _parsed_yaml(text, source=f"--set {override}")
    return values


def _strategy(values: Mapping[str, Any], *, source: str) -> Any:
    package = "attent_select.strategies"
    return _plugin(values, "selection", key="strategy", package=package, source=source)


def _plugin(values: Mapping[str, Any], section: str, *, key: str, package: str, source: str) -> Any:
    chosen = values.get(section)
    strategy_name = SelectionSection.model_fields["strategy_name"]
    default = strategy_name.default if section == "selection" else None
    name = chosen.get(key, default) if isinstance(chosen, Mapping) else None
    if not isinstance(name, str):
        raise InputError(f"{source}: {section}.{key}: is missing or is not a name")
    try:
        return load_plugin(package, name)
    except InputError as error:
        raise InputError(f"{source}: {section}.{key}: {error}") from error


def _unusable(config: RunConfig) -> Iterator[str]:
    """What is well-formed but cannot work: shards that are not there, a `where` that is no SQL."""
    from trainers.hf.training_arguments import check_training_arguments
    from trainers.scoring.scorer import check_gradient

    for section in ("corpus", "evaluation"):
        shards = getattr(config, section)
        for pattern in shards.shards if shards is not None else ():
            try:
                storage.expand([pattern])
            except AttentError as error:
                yield f"{section}.shards: {error}"
    yield from _unusable_places(config)
    yield from _unusable_model(config)
    if config.scoring.functional_gradient:
        try:
            check_gradient(config.task.task)
        except InputError as error:
            yield str(error)
    try:
        check_training_arguments(config.training)
    except InputError as error:
        yield f"training.{error}"
    schema = LOSSES | config.scoring.carry_schema
    if FUNCTIONAL_GRADIENT in set(config.selection.strategy.columns) - schema.keys():
        yield "selection: the strategy needs `scoring.functional_gradient: true`"
        return
    try:
        select(
            pl.LazyFrame(schema=schema),
            strategy=config.selection.strategy,
            num_samples=0,
            composition=config.selection.composition,
        )
    except InputError as error:
        names_a_key = str(error).partition(":")[0].isidentifier()
        yield f"selection.{error}" if names_a_key else f"selection: {error}"


def _unusable_model(config: RunConfig) -> Iterator[str]:
    task = config.task.task
    try:
        if hasattr(task, "check"):
            task.check()
    except InputError as error:
        yield f"task: {error}"
        return  # what a model must fit is not known
    try:
        models = task.models(config.model)
        if hasattr(models, "check"):
            models.check()
    except InputError as error:
        yield str(error) if str(error).startswith("model.") else f"model: {error}"


def _unusable_places(config: RunConfig) -> Iterator[str]:
    try:
        storage.info(Layout(config.run).config)
    except AttentError as error:
        yield f"run: {error}"
    try:
        check_memory_limit(config.cluster.memory_limit)
    except InputError as error:
        yield f"cluster.memory_limit: {error}"


def _leaves(value: Any, *, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, path=f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _is_changeable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _CHANGEABLE)
