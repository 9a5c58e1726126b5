"""Public names of the package `catalogs`."""

import subprocess
import sys

import attent_select
import catalogs


def test_completion_shows_exactly_the_public_names() -> None:
    assert dir(catalogs) == sorted(catalogs.__all__)
    assert catalogs.__version__ == attent_select.__version__


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import catalogs, sys; print('torch' in sys.modules, 'pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
