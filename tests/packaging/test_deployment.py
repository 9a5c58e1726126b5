"""Images and jobs of docker/ and deploy/: linters accept them, and their configuration is valid."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.config.sections import RunConfig

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
BATCH_SCRIPTS = sorted((ROOT / "deploy/slurm").glob("*.sbatch"))
KUBERNETES_VERSION = "1.30"


def objects() -> list[dict[str, Any]]:
    """The objects of all manifests for Kubernetes."""
    files = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_hadolint_accepts_an_image(file: Path) -> None:
    done = subprocess.run([TOOLS / "hadolint", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", BATCH_SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_accepts_a_batch_script(file: Path) -> None:
    done = subprocess.run([TOOLS / "shellcheck", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# Stands for `attent`, `torchrun` and `scontrol`: tells that it began; at SIGTERM it ends with 130.
COMMAND = """#!/bin/bash
trap 'exit 130' TERM
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$(basename "$0")" = scontrol ]; then exit 0; fi
if [ -n "${IS_SHORT:-}" ]; then exit "$IS_SHORT"; fi
while true; do sleep 0.05; done
"""


def start_job(file: Path, folder: Path, **variables: str) -> "subprocess.Popen[bytes]":
    """Start a batch script whose commands are written to `folder`/calls instead of being run."""
    (folder / "bin").mkdir()
    for name in ("attent", "torchrun", "scontrol"):
        (folder / "bin" / name).write_text(COMMAND)
        (folder / "bin" / name).chmod(0o755)
    (folder / "bin/activate").write_text(f'PATH="{folder}/bin:$PATH"')
    places = {"ATTENT_ENV": str(folder), "CALLS": str(folder / "calls"), "SLURM_JOB_ID": "7"}
    return subprocess.Popen(["bash", file, "CONFIG.yaml"], env=os.environ | places | variables)


@pytest.mark.parametrize("file", BATCH_SCRIPTS, ids=lambda file: file.name)
def test_a_job_that_slurm_stops_is_requeued(file: Path, tmp_path: Path) -> None:
    job = start_job(file, tmp_path)
    calls = tmp_path / "calls"
    while not calls.exists() or "CONFIG.yaml" not in calls.read_text():
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 130
    assert "scontrol requeue 7" in calls.read_text()


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize("file", BATCH_SCRIPTS, ids=lambda file: file.name)
def test_a_job_that_ends_by_itself_is_not_requeued(file: Path, code: int, tmp_path: Path) -> None:
    assert start_job(file, tmp_path, IS_SHORT=str(code)).wait() == code
    assert "scontrol" not in (tmp_path / "calls").read_text()


def test_a_scoring_job_that_lost_its_cluster_is_requeued(tmp_path: Path) -> None:
    job = start_job(ROOT / "deploy/slurm/score.sbatch", tmp_path, IS_SHORT="130")
    assert job.wait() == 130
    assert "scontrol requeue 7" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("manifest", objects(), ids=lambda each: each["kind"])
def test_an_object_has_the_schema_of_its_kind(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)


def test_the_configuration_of_the_jobs_is_accepted() -> None:
    (settings,) = [each for each in objects() if each["kind"] == "ConfigMap"]
    RunConfig.model_validate(yaml.safe_load(settings["data"]["config.yaml"]))


def test_an_image_is_built_from_what_dockerignore_leaves(tmp_path: Path) -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    source = tmp_path / "src"
    source.mkdir()
    for name in (rule.removeprefix("!") for rule in rules if rule.startswith("!")):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("attent_select", "catalogs", "pipeline", "trainers"):
        assert any(name.startswith(f"{package}/") for name in names), package
    assert any(re.search(r"examples/s3_cluster\.yaml$", name) for name in names)
