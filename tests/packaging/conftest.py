"""A wheel of this project in a separate environment, without the source tree."""

import shutil
import sysconfig
import venv
from pathlib import Path

import pytest
from packaging_environment import BASE_ONLY, PACKAGES, ROOT, Installed, pip
from scored_runs import scored_run

from attent_select.extras import EXTRAS


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources without a network."""
    sources = tmp_path_factory.mktemp("sources")
    for name in (*PACKAGES, "examples"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip("wheel", "--no-build-isolation", "--wheel-dir", sources / "dist", sources)
    (path,) = (sources / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment that sees this one's libraries, but not its own installation."""
    found = Installed(tmp_path_factory.mktemp("environment"))
    venv.create(found.folder, symlinks=True)
    # Only the folder: .pth files in it, that of an editable installation too, do not count.
    libraries = found.site_packages / "libraries.pth"
    libraries.write_text(f"{sysconfig.get_path('purelib')}\n")
    pip("--python", found.folder / "bin/python", "install", wheel)
    return found


@pytest.fixture(scope="session")
def base_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that hides the libraries of all extras."""
    folder = tmp_path_factory.mktemp("base-only")
    (folder / "sitecustomize.py").write_text(BASE_ONLY.format(missing=set(EXTRAS)))
    return folder


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A folder with a scored run where the README has one: `demo/soft`."""
    scored_run(tmp_path / "demo/soft", [[0.1 * row for row in range(40)] for _ in range(3)])
    return tmp_path
