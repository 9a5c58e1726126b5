"""The wheel, installed without the source tree: its contents, its commands, its lean base."""

import re
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging_environment import PACKAGES, ROOT, Installed

SNIPPET = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
SELECT = ("select", "demo/soft", "--ratio", "0.1", "--out", "demo/hardest.parquet", "--json")


@pytest.fixture
def clashing(reader: Path) -> Path:
    """A folder of a user who has packages `trainers` and `pipeline` too."""
    for name in ("trainers", "pipeline"):
        (reader / name).mkdir()
        (reader / name / "__init__.py").write_text("raise SystemExit('the code of the user')\n")
    return reader


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = Metadata.from_email(archive.read(metadata))
    dist_info = metadata.split("/")[0]
    shared = dist_info.replace(".dist-info", ".data")
    assert {name.split("/")[0] for name in names} == {*PACKAGES, dist_info, shared}
    examples = {path.name for path in (ROOT / "examples").glob("*.[yj]*")}
    assert {Path(name).name for name in names if name.startswith(f"{shared}/")} == examples
    templates = {f"pipeline/reports/template.{suffix}" for suffix in ("html", "css", "js")}
    assert templates | {f"{name}/py.typed" for name in PACKAGES} < {*names}
    assert about.license_files == ["LICENSE"]
    assert about.maintainer == "attent-select maintainers"
    extras = {"all", "cluster", "report", "train", "s3", "gcs", "cuda", "lightning", "vision"}
    assert extras < {*(about.provides_extra or ())}


def test_the_version_and_the_help_are_shown(installed: Installed, tmp_path: Path) -> None:
    version = installed.run("attent", "--version", cwd=tmp_path)
    assert re.fullmatch(r"attent-select \d+\.\d+\.\d+\n", version.stdout), version.stderr
    done = installed.run("attent", "--help", cwd=tmp_path)
    assert "select" in done.stdout, done.stderr


def test_the_python_program_of_the_readme_runs(installed: Installed, reader: Path) -> None:
    (reader / "program.py").write_text(SNIPPET)
    done = installed.run("python", "program.py", cwd=reader)
    assert done.returncode == 0, done.stderr
    assert (reader / "demo/mine.parquet").is_file()


def test_the_script_runs_beside_packages_of_the_same_names(
    installed: Installed, clashing: Path
) -> None:
    for program in (("attent",), ("python", "-P", "-m", "attent_select")):
        done = installed.run(*program, *SELECT, "--overwrite", cwd=clashing)
        assert done.returncode == 0, done.stderr
        assert '"selected": 12' in done.stdout


@pytest.mark.parametrize("program", [("attent",), ("python", "-m", "attent_select")])
def test_a_package_that_comes_first_is_named_in_one_line(
    installed: Installed, clashing: Path, program: tuple[str, ...]
) -> None:
    path = [clashing] if program == ("attent",) else []
    done = installed.run(*program, "--help", cwd=clashing, path=path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"`trainers` is {clashing / 'trainers'}, which hides" in done.stderr
    assert str(installed.site_packages / "trainers") in done.stderr


def test_the_base_selects_queries_and_plans(
    installed: Installed, reader: Path, base_only: Path
) -> None:
    commands = [
        ("--help",),
        SELECT,
        ("query", "demo/soft", "SELECT count(*) FROM losses"),
        ("stream", "demo/soft", "--index", "demo/hardest.parquet", "--batch-size", "4", "--plan"),
        ("examples", "raw_text"),
        ("schema",),
    ]
    for command in commands:
        done = installed.run("attent", *command, cwd=reader, path=[base_only])
        assert done.returncode == 0, f"{command}: {done.stderr}"
    code = "from attent_select import select; from catalogs import Corpus, IndexFile, LossCatalog"
    done = installed.run("python", "-c", code, cwd=reader, path=[base_only])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("run", "config.yaml"), r"(train|cluster)"),
        (("report", "demo/soft"), "report"),
        (("select", *SELECT[1:], "--scheduler", "local"), "cluster"),
        (("antk", "demo/soft"), "train"),
        (("init", "--shards", "demo/soft/corpus"), r"(train|cluster)"),
    ],
)
def test_a_command_names_the_extra_that_it_lacks(
    installed: Installed, reader: Path, base_only: Path, command: tuple[str, ...], extra: str
) -> None:
    (reader / "config.yaml").write_text("{}")
    done = installed.run("attent", *command, cwd=reader, path=[base_only])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert re.search(rf'is not installed: run pip install "attent-select\[{extra}\]"', done.stderr)


def test_an_import_names_the_extra_that_it_lacks(
    installed: Installed, tmp_path: Path, base_only: Path
) -> None:
    code = "from trainers import TeachingStream"
    done = installed.run("python", "-c", code, cwd=tmp_path, path=[base_only])
    assert 'pip install "attent-select[train]"' in done.stderr.splitlines()[-1]
