"""Strategies, shard formats and tasks by name, without registries.

The file name in a plug-in package is the key (`strategies/soft.py` is `soft`), and the class has
that name in CamelCase (`Soft`, `ImageClassification`). A dotted path such as
`my_package.my_module.MyTask` names a class of another package.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, cast

from attent_select.errors import AttentError, InputError
from attent_select.extras import missing_extras_named


def plugin_names(package: str) -> list[str]:
    """Return the keys of the plug-ins in `package`, sorted."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def load_plugin(package: str, name: str, *, methods: Sequence[str] = ()) -> Any:
    """Return the class of plug-in `name` of `package`, or the class at the dotted path `name`.

    Args:
        package: the package with the plug-ins.
        name: a file name in it, or a dotted path.
        methods: what the class must have: those of the plug-in's protocol.

    Raises:
        InputError: there is no such plug-in, module or class, or the class lacks a method.
    """
    if is_dotted(name):
        plugin = load_class(name)
    elif name in plugin_names(package):
        class_name = "".join(word.capitalize() for word in name.split("_"))
        with missing_extras_named():
            plugin = getattr(importlib.import_module(f"{package}.{name}"), class_name)
    else:
        known = ", ".join(plugin_names(package))
        raise InputError(
            f"unknown plug-in {name!r} in {package}: expected {known}, or a dotted path to a class"
        )
    if missing := [method for method in methods if not callable(getattr(plugin, method, None))]:
        raise InputError(
            f"{name!r} has no method {', '.join(missing)}: expected a class as docs/extending.md "
            f"describes it, like those of {package}"
        )
    return plugin


def is_dotted(name: str) -> bool:
    """Whether a plug-in's name is the dotted path of a class of another package."""
    return "." in name


def load_class(path: str) -> type[Any]:
    """Return the class at a dotted path. Imports its module, which executes its code.

    Raises:
        InputError: the module cannot be imported, or has no such class.
    """
    loaded = _load(path)
    if not isinstance(loaded, type):
        raise InputError(f"{path!r} is a {type(loaded).__name__}, expected a class")
    return loaded


def load_callable(path: str) -> Callable[..., Any]:
    """Return the function at a dotted path (`package.module.function`, or with a colon before the
    function). Imports its module, which executes its code.

    Raises:
        InputError: the module cannot be imported, or has no such function.
    """
    dotted = path.replace(":", ".")
    if not all(part.isidentifier() for part in dotted.split(".")) or not is_dotted(dotted):
        raise InputError(f"{path!r} is not the dotted path of a function: package.module.function")
    loaded = _load(dotted)
    if not callable(loaded):
        raise InputError(f"{path!r} is a {type(loaded).__name__}, expected a function")
    return cast(Callable[..., Any], loaded)


def _load(path: str) -> Any:
    """Return what a dotted path names in its module."""
    module_name, _, name = path.rpartition(".")
    try:
        with missing_extras_named():
            return getattr(importlib.import_module(module_name), name)
    except AttentError:
        raise
    except Exception as error:  # importing a module can raise anything
        raise InputError(f"cannot load {path}: {type(error).__name__}: {error}") from error
