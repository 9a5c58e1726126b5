"""The benchmark scripts run on a few rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import process_copies
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(tmp_path: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark and return the results that it writes."""
    options = ("--repeats", "1", "--results", tmp_path / "results", "--name", "test")
    run_script(script, *arguments, *options)
    return dict(json.loads((tmp_path / "results/test.json").read_text()))


def run_script(script: str, *arguments: object) -> None:
    # One torch thread, for a busy machine.
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    process = process_copies.run(BENCHMARKS / script, *arguments, environment=environment)
    assert process.returncode == 0, process.stderr[-3000:]


def test_selection(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        "selection.py",
        *("--rows", "2e4", "--folder", str(tmp_path)),
        *("--only", "ours,polars,numpy,torch"),
    )
    assert {each["selected"] for each in results["results"]} == {4000}
    assert results["ratios"]["numpy argpartition / ours to ids: hard"] > 0
    assert (tmp_path / "results/test.png").exists()


def test_scoring(tmp_path: Path) -> None:
    text = tmp_path / "text.parquet"
    pl.DataFrame({"text": [f"sample {number} of forty" for number in range(40)]}).write_parquet(
        text
    )
    results = run(
        tmp_path,
        "scoring.py",
        *("--text", str(text), "--samples", "40", "--spans", "8", "--only", "ours, one"),
    )
    methods = {each["method"]: each["samples_per_second"] for each in results["throughput"]}
    assert methods.keys() == {"bare loop", "ours, one task"}
    assert min(methods.values()) > 0
    assert results["spans"]["files"]["num_spans"] == results["spans"]["window"]["num_spans"] == 8


def test_learning(tmp_path: Path) -> None:
    out, arms = tmp_path / "digits.json", tmp_path / "arms.yaml"
    arm = "{selection: {strategy: uniform}, schedule: {epochs: 1, ratio: {start: %s}}}"
    arms.write_text(f"all data: {arm % 1.0}\nhalf: {arm % 0.5}\n")
    for _ in range(2):  # the second time nothing is left to train
        run_script(
            "learning.py",
            "digits",
            "--seeds",
            1,
            "--arms",
            arms,
            "--out",
            out,
            "--folder",
            tmp_path,
        )
    trials = json.loads(out.read_text())["trials"]
    assert [trial["arm"] for trial in trials] == ["all data", "half"]
    assert trials[0]["samples_seen"] == pytest.approx(2 * trials[1]["samples_seen"], abs=1)
    assert out.with_suffix(".png").exists()


def test_partial_rounds(tmp_path: Path) -> None:
    results = run(tmp_path, "partial_rounds.py", "--samples", "300")
    scored = {each["round"]: each["scored"] for each in results["results"]}
    assert scored == {"full": 300, "staleness": 30, "threshold": 30, "none": 0}


def test_annotations(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        "annotations.py",
        "--rows",
        "2e4",
        "--pool-rows",
        "1000",
        "--only",
        "filters,selection",
    )
    assert {each["selected"] for each in results["selection"]["medians"].values()} == {4000}
    shares = {each["filter"]: each["wanted_share_of_top_0.15"] for each in results["filters"]}
    assert min(shares.values()) > 0.5, "without a filter it would be 0.15"


def test_accelerator(tmp_path: Path) -> None:
    parts = ("scoring_vit", "scoring_llama", "packing", "attention", "adapters", "copies")
    command = [BENCHMARKS / "accelerator.py", "--toy", "--out", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    command += ["--only", ",".join(parts)]
    process_copies.run(*command, environment=environment).check_returncode()
    times = {part: (tmp_path / f"{part}.json").stat().st_mtime_ns for part in parts}
    process_copies.run(*command, environment=environment).check_returncode()
    for part, time in times.items():
        assert (tmp_path / f"{part}.json").stat().st_mtime_ns == time, "measured again"
    results = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in parts}
    assert results["scoring_vit"]["share_of_bare"] > 0
    assert results["scoring_llama"]["samples_per_second"] > 0
    assert results["packing"]["packed"] > 0
    assert results["attention"]["sdpa"] > 0
    assert results["adapters"]["lora"]["tokens_per_second"] > 0
    assert "machine.json" in {path.name for path in tmp_path.iterdir()}


def test_an_accelerator_part_without_its_library_says_which(tmp_path: Path) -> None:
    hidden = tmp_path / "transformers.py"
    hidden.write_text("raise ModuleNotFoundError(name='transformers')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{BENCHMARKS.parent}"}
    command = [sys.executable, BENCHMARKS / "accelerator.py", "--toy", "--only", "packing"]
    subprocess.run([*command, "--out", tmp_path / "out"], env=environment, check=True)
    result = json.loads((tmp_path / "out/packing.json").read_text())
    assert result == {"skipped": "transformers is missing"}
