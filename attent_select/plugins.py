"""Strategies, shard formats and tasks by name, without registries.

The file name in a plug-in package is the key (`strategies/soft.py` is `soft`), and the class has
that name in CamelCase (`Soft`, `ImageClassification`). A dotted path such as
`my_package.my_module.MyTask` names a class of another package.
"""

import importlib
import pkgutil
from typing import Any

from attent_select.errors import InputError
from attent_select.extras import missing_extras_named


def plugin_names(package: str) -> list[str]:
    """Return the keys of the plug-ins in `package`, sorted."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def load_plugin(package: str, name: str) -> Any:
    """Return the class of plug-in `name` of `package`, or the class at the dotted path `name`.

    Raises:
        InputError: there is no such plug-in, module or class.
    """
    if "." in name:
        module_name, _, class_name = name.rpartition(".")
    elif name in plugin_names(package):
        module_name = f"{package}.{name}"
        class_name = "".join(word.capitalize() for word in name.split("_"))
    else:
        known = ", ".join(plugin_names(package))
        raise InputError(
            f"unknown plug-in {name!r} in {package}: expected {known}, or a dotted path to a class"
        )
    try:
        with missing_extras_named():
            plugin = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot load {name!r}: {error}") from error
    if not isinstance(plugin, type):
        raise InputError(f"{name!r} is a {type(plugin).__name__}, expected a class")
    return plugin
