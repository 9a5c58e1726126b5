"""Does what docs/own_task.md says, word for word, in a folder of its own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/own_task.md").read_text()
BIN = Path(sys.executable).parent
TASK, CORPUS, CASE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RUN, TEST = re.findall(r"```console\n\$ (.*?)\n```", PAGE)


def run(command: str, *, cwd: Path) -> str:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        shlex.split(command), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_task_of_ones_own_scores_trains_and_evaluates(tmp_path: Path) -> None:
    (tmp_path / "reviews.py").write_text(TASK)
    (tmp_path / "corpus.py").write_text(CORPUS)
    (configuration,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "reviews.yaml").write_text(configuration)
    run("python corpus.py", cwd=tmp_path)
    run(RUN, cwd=tmp_path)
    losses = pl.read_parquet(tmp_path / "run/losses/parts/*.parquet")
    assert losses["status"].to_list() == ["ok"] * len(losses)
    metrics = pl.read_parquet(tmp_path / "run/metrics/*.parquet").sort("round")
    found = metrics.filter(name="eval_loss")["value"].to_list()
    assert found[-1] < found[0] < 0.7


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of what the suite needs."""
    for folder in ("attent_select", "catalogs", "trainers", "pipeline", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_suite_tests_it_once_it_lies_beside_the_others(repository: Path) -> None:
    (repository / "trainers/tasks/reviews.py").write_text(TASK)
    with (repository / "tests/tasks_at_hand.py").open("a") as file:
        file.write(f"\n\n{CASE}")
    # The other tasks are tested where they are.
    said = run(f"env PYTHONPATH=. {TEST} -v -k reviews", cwd=repository)
    passed = re.search(r"(\d+) passed, 1 skipped", said)  # the model's own loss is not in the case
    assert passed is not None, said
    assert int(passed.group(1)) >= 12
