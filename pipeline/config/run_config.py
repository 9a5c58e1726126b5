"""The configuration of a run: from a YAML file or a run to a checked `RunConfig`, and run.yaml.

Everything is checked before any work, storage included. Each problem is one line with the path of
its key.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from attent_select.errors import InputError, MissingError
from attent_select.plugins import is_dotted, load_plugin
from attent_select.selection.composition import is_static
from catalogs import storage
from catalogs.layout import Layout
from pipeline.config import credentials, trust
from pipeline.config.annotation_kinds import KIND, with_carried_columns, with_run_defaults
from pipeline.config.automatic_annotations import DUPLICATES
from pipeline.config.preflight import preflight_problems
from pipeline.config.sections import RunConfig, SelectionSection, run_settings_of
from pipeline.config.task_reference import TASK_METHODS, TASKS, TaskReference
from pipeline.config.validation import all_problems, check
from pipeline.config.yaml_values import dump_frozen, read_yaml, replace_keys
from trainers.settings import REPORTING, StreamingSettings

_PACKAGES = {"task": TASKS, "selection": "attent_select.strategies"}
# The top share of a key that does not change with the learner.
_STATIC_RATIO = 0.2
# Kinds of annotations that rank duplicates.
_RANKED = ("duplicates", "near_duplicates")
# Its default was float32 before it was that of the device.
_DTYPE = "scoring.dtype"
# May change when a run is resumed: where and how fast it runs, never its result.
_CHANGEABLE = (
    "run",
    "cluster",
    "scoring.max_failed_share",
    "tracking",
    *(f"training.arguments.{name}" for name in sorted(REPORTING)),
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
    task = _load_plugin(values, "task", key="name", methods=TASK_METHODS, source=source)
    values = _with_model_tokenizer(values, task)
    values = _with_annotation_defaults(values)
    values = _with_budget_unit(values, task)
    settings = run_settings_of(task, _load_strategy(values, source=source))
    config = _with_static_defaults(check(settings, values, source=source), values)
    if lines := list(preflight_problems(config)):
        raise all_problems(lines, source=source)
    return config


def restore(values: Mapping[str, Any], *, task: TaskReference) -> RunConfig:
    """Return the configuration whose `resolved` values another process has checked."""
    strategy = _load_strategy(values, source="the configuration")
    task_section = {"name": task.name, "settings": task}
    settings = run_settings_of(TaskReference, strategy)
    return settings.model_validate({**values, "task": task_section})


def load(
    source: str,
    *,
    overrides: Sequence[str] = (),
    trust_run: bool = False,
    sections: Sequence[str] = trust.CONFIGURED,
) -> RunConfig:
    """Return the configuration in a YAML file, or the frozen one of a run.

    Args:
        source: path or URL of a `.yaml` file, or of a run.
        overrides: `dotted.key=value` (the value is YAML), each replaces one key of the file.
        trust_run: use code that run.yaml names; a YAML file is always trusted.
        sections: that the caller uses. Without `selection`, the strategy and the annotations of a
            run are not loaded.

    Raises:
        MissingError: there is no such file or run.
        InputError: it is not YAML, or one line per problem in it; or a run names code.
    """
    credentials.check_urls([source], what="the configuration")
    source = storage.normalise(source)
    if trust.is_config(source):
        return parse(replace_keys(read_yaml(source), overrides), source=source)
    frozen = _frozen_url(source)
    values = read_yaml(frozen)
    if trust_run:
        trust.import_formats(source)
    else:
        trust.check_run(source, sections, overrides=overrides, values=values)
    if "selection" not in sections:
        values["selection"] = {"strategy": "uniform"}
        values.pop("annotations", None)
    return parse(replace_keys(values | {"run": source}, overrides), source=frozen)


def with_scheduler(overrides: Sequence[str], scheduler: str | None) -> Sequence[str]:
    """Add the overrides for the option `--scheduler`, if it was given."""
    if scheduler is None:
        return overrides
    # Only a cluster class takes arguments.
    arguments = ["cluster.arguments={}"] if scheduler == "local" or "://" in scheduler else []
    return [*overrides, f"cluster.scheduler={scheduler}", *arguments]


def load_frozen(run: str) -> RunConfig:
    """Load the frozen configuration of a run as data: no code that it names is imported.

    The task is a `TaskReference` with its settings alone. A strategy of another package is
    replaced by its settings as a dictionary.

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
    name = trust.value_at(values, "selection", "strategy")
    is_foreign = isinstance(name, str) and is_dotted(name)
    strategy = dict[str, Any] if is_foreign else _load_strategy(values, source=url)
    return check(run_settings_of(TaskReference, strategy), values, source=url)


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
        storage.publish(url, dump_frozen(config.to_plain_values()))
    check_frozen(config)


def check_frozen(config: RunConfig) -> None:
    """Check that the run, if it was started, was started with these settings.

    Raises:
        InputError: it was not; names the keys that differ. Where it runs may change (`cluster`).
    """
    url = Layout(config.run).config
    if storage.info(url) is None:
        return
    frozen = _with_annotation_defaults(with_carried_columns(read_yaml(url)))
    before, after = dict(leaves(frozen)), dict(leaves(config.to_plain_values()))
    if after[_DTYPE] is None:  # a run keeps the dtype of its losses
        after[_DTYPE] = before.get(_DTYPE)
    lines = [
        f"{key}: the run was started with {before.get(key)!r}, now it is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_changeable(key)
    ]
    if lines:
        lines[-1] += (
            f"; to continue with the settings of its first start, name the run (attent run "
            f"{config.run}); for these, choose another `run`"
        )
        raise all_problems(lines, source=url)


def _with_model_tokenizer(values: Mapping[str, Any], task: Any) -> Mapping[str, Any]:
    """Return the values with the model's tokenizer, for a task that takes one and names none."""
    names = [field.name for field in fields(task)] if is_dataclass(task) else []
    section, model = values["task"], values.get("model")
    path = model.get("path") if isinstance(model, Mapping) else None
    if "tokenizer" not in names or section.get("tokenizer") is not None or path is None:
        return values
    return {**values, "task": {**section, "tokenizer": path}}


def _with_annotation_defaults(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values with the run's tokenizer, model and task, for annotations without them."""
    if not isinstance(values.get("annotations"), Mapping):
        return values
    model = values.get("model")
    path = model.get("path") if isinstance(model, Mapping) else None
    annotations = with_run_defaults(values["annotations"], task=values["task"], model=path)
    return {**values, "annotations": annotations}


def _with_static_defaults(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with other defaults where the key does not change with the learner.

    A smaller ratio, and exact duplicates, which the run finds, are skipped.
    """
    section = config.selection
    if not is_static(section.strategy):
        return config
    if "ratio" not in (values.get("schedule") or {}) and config.schedule.budget is None:
        schedule = replace(
            config.schedule, ratio=replace(config.schedule.ratio, start=_STATIC_RATIO)
        )
        config = config.model_copy(update={"schedule": schedule})
    entry = config.annotations.get(DUPLICATES, {})
    # Another annotation, or a column of the shards, may have this name.
    is_usable = entry.get(KIND, DUPLICATES) in _RANKED and DUPLICATES not in section.columns
    if "distinct" not in values["selection"] and section.granularity == "sample" and is_usable:
        composition = replace(section.composition, distinct=DUPLICATES)
        section = section.model_copy(update={"composition": composition})
        config = config.model_copy(update={"selection": section})
    return config


def _with_budget_unit(values: Mapping[str, Any], task: Any) -> Mapping[str, Any]:
    """Return the values with a budget in samples, for a task that counts no units."""
    section = values["selection"]
    if not isinstance(section, Mapping) or hasattr(task, "counted_units"):
        return values
    return {**values, "selection": {"budget_unit": "samples", **section}}


def _load_strategy(values: Mapping[str, Any], *, source: str) -> Any:
    methods = ("key", "probability")
    return _load_plugin(values, "selection", key="strategy", methods=methods, source=source)


def _load_plugin(
    values: Mapping[str, Any], section: str, *, key: str, methods: Sequence[str], source: str
) -> Any:
    """Return the class of a plug-in whose fields are the settings of its section."""
    named = values.get(section)
    strategy_name = SelectionSection.model_fields["strategy_name"]
    default = strategy_name.default if section == "selection" else None
    name = named.get(key, default) if isinstance(named, Mapping) else None
    if not isinstance(name, str):
        raise InputError(f"{source}: {section}.{key}: is missing or is not a name")
    try:
        plugin = load_plugin(_PACKAGES[section], name, methods=methods)
        if not is_dataclass(plugin):
            raise InputError(f"{name!r} is not a dataclass, whose fields would be its settings")
        return plugin
    except InputError as error:
        raise InputError(f"{source}: {section}.{key}: {error}") from error


def leaves(value: Any, *, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, path=f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _is_changeable(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in _CHANGEABLE)
