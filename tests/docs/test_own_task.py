"""Follow docs/own_task.md word for word, in a folder of its own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/own_task.md").read_text()
# Each file of the page: its name in the text, then its content.
FILES = re.findall(r"[Ss]ave (?:this|it) as `([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL)
CORPUS, RUN, TEST = re.findall(r"```console\n\$ (.*?)\n```", PAGE)
BIN = Path(sys.executable).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reader's folder with all files of the page."""
    for name, content in FILES:
        (tmp_path / name).write_text(content)
    return tmp_path


def run(command: str, *, folder: Path) -> str:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_task_of_another_package_scores_trains_and_evaluates(folder: Path) -> None:
    run(CORPUS, folder=folder)
    run(RUN, folder=folder)
    losses = pl.read_parquet(folder / "run/losses/parts/*.parquet")
    assert losses["status"].to_list() == ["ok"] * len(losses)
    metrics = pl.read_parquet(folder / "run/metrics/*.parquet").sort("round")
    eval_losses = metrics.filter(name="eval_loss")["value"].to_list()
    assert eval_losses[-1] < eval_losses[0] < 0.7


def test_a_task_of_another_package_passes_the_conformance_suite(folder: Path) -> None:
    output = run(TEST, folder=folder)
    passed = re.search(r"(\d+) passed, (\d+) skipped", output)
    assert passed is not None, output
    assert int(passed[1]) >= 12
    # The page has no reference loss, and its task neither a functional gradient nor columns.
    assert int(passed[2]) == 3
