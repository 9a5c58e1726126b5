"""What happens where the user has packages called `catalogs`, `trainers` or `pipeline` too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attent_select.siblings import clashes

ROOT = Path(__file__).parents[2]
SIBLINGS = ("catalogs", "trainers", "pipeline")


def python(
    *arguments: str, cwd: Path, path: tuple[Path, ...] = (ROOT,)
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `cwd`, with `path` as PYTHONPATH."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def package(folder: Path, name: str) -> Path:
    """A package of the user's with a marker that shows whether it is imported."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("print('the code of the user runs')\n")
    return folder / name


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_package_in_the_working_directory_is_named_and_not_run(tmp_path: Path, name: str) -> None:
    mine = package(tmp_path, name)
    done = python("-m", "attent_select", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"the package `{name}` is {mine}, which hides" in done.stderr
    assert f"attent-select's own, {ROOT / name}: rename it" in done.stderr


@pytest.mark.parametrize("name", SIBLINGS)
def test_python_with_p_ignores_the_working_directory(tmp_path: Path, name: str) -> None:
    package(tmp_path, name)
    done = python("-P", "-m", "attent_select", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the code of the user runs" not in done.stdout


def test_a_single_module_hides_a_package_too(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("print('the code of the user runs')\n")
    done = python("-m", "attent_select", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the package `pipeline` is {tmp_path / 'pipeline.py'}, which hides" in done.stderr


def test_a_folder_without_an_init_file_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "mine.py").write_text("")
    done = python("-m", "attent_select", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (problem,) = clashes(["no_such_package"], home=tmp_path)
    assert f"`no_such_package` is missing: expected {tmp_path / 'no_such_package'};" in problem


@pytest.mark.parametrize(
    ("importing", "name"),
    [("trainers", "catalogs"), ("pipeline", "trainers"), ("pipeline", "catalogs")],
)
def test_importing_one_of_our_packages_checks_the_others(
    tmp_path: Path, importing: str, name: str
) -> None:
    mine = package(tmp_path, name)
    done = python("-P", "-c", f"import {importing}", cwd=tmp_path, path=(tmp_path, ROOT))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith(f"attent_select.errors.ClashError: the package `{name}` is {mine}")
    assert str(ROOT / name) in last


def test_the_error_is_an_import_error(tmp_path: Path) -> None:
    package(tmp_path, "trainers")
    code = "try:\n import pipeline\nexcept ImportError as error:\n print(type(error).__name__)"
    done = python("-P", "-c", code, cwd=tmp_path, path=(tmp_path, ROOT))
    assert done.stdout == "ClashError\n", done.stderr


def test_a_package_that_was_imported_first_stays_the_one_in_use(tmp_path: Path) -> None:
    mine = package(tmp_path, "catalogs")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import catalogs; sys.path.pop(0);"
    done = python("-P", "-c", f"{code} import trainers", cwd=tmp_path)
    assert f"the package `catalogs` is {mine}, which hides" in done.stderr
