"""Trust in a run: its run.yaml and its manifests are data, and execute no code by themselves.

A command that is given a CONFIG.yaml uses the code that it names. A command that is given a run
uses only code of installed kinds, unless the caller trusts its author (`--trust-run`).
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attent_select.errors import InputError
from attent_select.plugins import is_dotted
from catalogs import storage
from catalogs.corpus import foreign_formats
from catalogs.layout import Layout
from pipeline.config.yaml_values import read_yaml

# Sections of run.yaml that a process needs to load the configuration.
CONFIGURED: Final = ("task", "model", "selection", "annotations", "training")

# Key of a task that names a function.
_TRANSFORM = "transform"

# Arguments of transformers that load compiled code from a hub.
_KERNELS = (
    *("attn_implementation", "experts_implementation"),
    *("use_kernels", "allow_all_kernels", "kernel_config"),
)


def is_config(source: str) -> bool:
    """Whether a command's argument is a CONFIG.yaml instead of a run."""
    return source.endswith((".yaml", ".yml"))


def check_run(
    run: str,
    sections: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> None:
    """Check that sections of a run's run.yaml execute no code.

    Args:
        run: URL of the run; a CONFIG.yaml is trusted.
        sections: names of the sections that the caller is going to use.
        overrides: `dotted.key=value` of the caller; the caller trusts these keys.
        values: of run.yaml; default: as it is stored.

    Raises:
        InputError: one does; names each setting and `--trust-run`.
    """
    if is_config(run):
        return
    url = Layout(storage.normalise(run)).config
    replaced_keys = tuple(override.partition("=")[0] for override in overrides)
    lines = [
        f"{key}: {value!r}"
        for key, value in _settings_that_execute(read_yaml(url) if values is None else values)
        if key.partition(".")[0] in sections and not _is_replaced(key, replaced_keys)
    ]
    if lines:
        raise InputError(
            f"{url}: {'; '.join(lines)} would execute code that the run names: add --trust-run "
            "(trust_run=True) if you trust its author, or replace the setting with --set"
        )


def check_annotation(url: str, entry: Mapping[str, Any]) -> None:
    """Check that the settings in the record of an annotation, at `url`, execute no code.

    Raises:
        InputError: one does; names each setting and `--trust-run`.
    """
    name = url.split("/")[-2]
    lines = [
        f"{key}: {value!r}"
        for key, value in _settings_that_execute({"annotations": {name: dict(entry)}})
    ]
    if lines:
        raise InputError(
            f"{url}: {'; '.join(lines)} would execute code: add --trust-run if you trust its author"
        )


def import_formats(run: str) -> None:
    """Import the modules of shard formats that the manifests of a trusted run name.

    Raises:
        InputError: a module cannot be imported.
    """
    for folder in (run, Layout(storage.normalise(run)).held_out):
        for name in foreign_formats(folder):
            module = name.rpartition(".")[0]
            try:
                importlib.import_module(module)
            except Exception as error:  # importing a module can raise anything
                raise InputError(
                    f"{folder}: cannot import {module} of the shard format {name}: {error}"
                ) from error


def _settings_that_execute(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each setting that makes a command execute code.

    A scheduler can execute what it likes in its clients, and a cluster class what its arguments say
    (`job_script_prologue`).
    """
    annotations = [("annotations", name) for name in value_at(values, "annotations") or ()]
    in_annotations = [
        (*keys, *inner)
        for keys in annotations
        for inner in (("kind",), ("task",), ("task", "name"), ("task", _TRANSFORM))
    ]
    in_sections = (("task", "name"), ("task", _TRANSFORM), ("selection", "strategy"))
    for keys in (*in_sections, *in_annotations):
        name = value_at(values, *keys)
        if isinstance(name, str) and (is_dotted(name) or keys[-1] == _TRANSFORM):
            yield ".".join(keys), name
    if value_at(values, "model", "trust_remote_code"):
        yield "model.trust_remote_code", value_at(values, "model", "trust_remote_code")
    for section in (("model",), ("model", "config"), ("training", "arguments")):
        for key in _KERNELS:
            if _names_code(choice := value_at(values, *section, key)):
                yield ".".join((*section, key)), choice
    if (scheduler := value_at(values, "cluster", "scheduler")) not in (None, "local"):
        yield "cluster.scheduler", scheduler
    if arguments := value_at(values, "cluster", "arguments"):
        yield "cluster.arguments", arguments


def _names_code(choice: Any) -> bool:
    """Whether a choice of kernels is compiled code of a repository (`user/name`)."""
    if isinstance(choice, Mapping):
        return any(_names_code(part) for part in choice.values())
    return "/" in choice if isinstance(choice, str) else bool(choice)


def value_at(values: Any, *keys: str) -> Any:
    """Return the value at nested keys, or None if there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _is_replaced(key: str, replaced_keys: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in replaced_keys)
