"""The console script `attent`, and `python -m attent_select`.

The script checks where the other three packages are before it imports one: if another package
hides one of them, an import would fail with a message about a missing submodule, or run its code.
"""

import importlib
import sys

from attent_select.errors import ClashError
from attent_select.siblings import check_siblings


def main() -> None:
    """Run the command line, or exit with 2 if another package hides one of ours."""
    try:
        check_siblings(__file__, "catalogs", "trainers", "pipeline")
    except ClashError as error:
        sys.stderr.write(f"attent: {error}\n")
        raise SystemExit(error.exit_code) from None
    # By name: no import statement of this package points upward (see the layers in pyproject.toml).
    importlib.import_module("pipeline.cli").main()


if __name__ == "__main__":
    main()
