"""`benchmarks/antk.py` runs on a few samples."""

import json
import os
from pathlib import Path

import polars as pl
import process_copies
from digits import samples

ROOT = Path(__file__).parents[2]


def test_the_benchmark_of_the_kernel_measures_every_learner(tmp_path: Path) -> None:
    pl.DataFrame(samples(120)).write_parquet(tmp_path / "images.parquet")
    texts = [f"sample {number} of a hundred and twenty" for number in range(120)]
    pl.DataFrame({"text": texts}).write_parquet(tmp_path / "text.parquet")
    options = {
        "--steps": "4",
        "--every": "2",
        "--images": tmp_path / "images.parquet",
        "--text": tmp_path / "text.parquet",
        "--results": tmp_path / "results",
        "--name": "test",
    }
    done = process_copies.run(
        ROOT / "benchmarks/antk.py",
        *(word for pair in options.items() for word in pair),
        environment=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "results/test.json").read_text())
    assert [one["learner"] for one in report["results"]][:2] == ["ViT", "language model"]
    for one in report["results"]:
        assert [point["step"] for point in one["kernels"]] == [0, 2, 4]
        assert all(point["drift"] > 0 for point in one["kernels"][1:])
    errors = [step["error"] for step in report["results"][0]["steps"]]
    assert errors == sorted(errors, reverse=True)
    assert 0 < report["results"][0]["scores"][-1]["top_overlap"] <= 1
    assert (tmp_path / "results/test.png").exists()
