"""Finds strategies, shard formats and tasks by name, without registries.

The file name in a plug-in package is the key (`strategies/soft.py` is `soft`) and its class is
that name in CamelCase (`Soft`, `ImageClassification`). A dotted path
(`my_package.my_module.MyTask`) names someone else's.
"""

import importlib
import pkgutil
from typing import Any

from attent_select.errors import InputError
from attent_select.extras import missing_extras_named


def plugin_names(package: str) -> list[str]:
    """The keys of the plug-ins in `package`, sorted."""
    found = importlib.import_module(package)
    return sorted(module.name for module in pkgutil.iter_modules(found.__path__))


def load_plugin(package: str, name: str) -> Any:
    """The class of plug-in `name` of `package`, or the class at the dotted path `name`.

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
            f"no plug-in {name!r} in {package}: expected {known}, or a dotted path to a class"
        )
    try:
        with missing_extras_named():
            found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot load {name!r}: {error}") from error
    if not isinstance(found, type):
        raise InputError(f"{name!r} is {type(found).__name__}, expected a class")
    return found
