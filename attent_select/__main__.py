"""The console script `attent`, and `python -m attent_select`.

Our four packages have common names. Before the command line is loaded, this checks that the other
three are found beside this one, and not in a folder of the user's.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

_SIBLINGS = ("catalogs", "trainers", "pipeline")
_HOME = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the command line, or exit with 2 if another package shadows one of ours."""
    for name in _SIBLINGS:
        if (problem := _shadowed(name)) is not None:
            sys.stderr.write(f"attent: {problem}\n")
            raise SystemExit(2)
    # The only upward reference of the house: by name, so that no import points upward.
    importlib.import_module("pipeline.cli").main()


def _shadowed(name: str) -> str | None:
    """One line that says which package stands in the way of ours, or None."""
    expected = _HOME / name
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        found = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    else:
        found = str(Path(spec.origin).parent)
    if found is not None and Path(found).resolve() == expected:
        return None
    if found is None:
        return f"the package `{name}` is missing: expected {expected}. Install attent-select again."
    return (
        f"the package `{name}` of attent-select ({expected}) is hidden by {found}: "
        "start `attent` in another folder, rename that package, or run `python -P -m attent_select`"
    )


if __name__ == "__main__":
    main()
