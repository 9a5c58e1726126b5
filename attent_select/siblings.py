"""Whether the four packages lie side by side, or another package hides one of them.

`catalogs`, `trainers` and `pipeline` are common names: a folder of the user's that comes first on
`sys.path` replaces ours.
"""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from attent_select.errors import ClashError

PACKAGES = ("attent_select", "catalogs", "trainers", "pipeline")


def check_siblings(package_file: str, *names: str) -> None:
    """Check that each package `names` lies beside the one whose `__file__` is `package_file`.

    Raises:
        ClashError: one line per package that is missing or hidden, with both folders.
    """
    if problems := clashes(names, home=Path(package_file).parent.parent):
        raise ClashError("; ".join(problems))


def clashes(
    names: Iterable[str] = PACKAGES, *, home: Path = Path(__file__).parent.parent
) -> list[str]:
    """One line for each package of `names` that Python does not find in the folder `home`."""
    return [problem for name in names if (problem := _clash(name, expected=home / name))]


def _clash(name: str, *, expected: Path) -> str | None:
    location = _location(name)
    if location is None:
        return f"the package `{name}` is missing: expected {expected}; install attent-select again"
    if location.resolve() == expected.resolve():
        return None
    return (
        f"the package `{name}` is {location}, which hides attent-select's own, {expected}: rename "
        "it, or keep its folder from being first on sys.path (`python -P -m attent_select`)"
    )


def _location(name: str) -> Path | None:
    """The folder (of a single module: the file) that `import name` uses or would use."""
    module = sys.modules.get(name)
    spec = module.__spec__ if module is not None else importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    origin = spec.origin if spec is not None else getattr(module, "__file__", None)
    return Path(origin) if origin is not None else None
