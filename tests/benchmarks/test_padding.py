"""The benchmark of padding runs, on a few short texts."""

import json
from pathlib import Path

import process_copies

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_it_trains_on_generated_texts_with_little_padding(tmp_path: Path) -> None:
    options = ["--quick", "--arms", "default", "--results", str(tmp_path)]
    done = process_copies.run(BENCHMARKS / "padding.py", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "padding.json").read_text())
    figures = results["generated"]["arms"]["default"]
    assert figures["tokens"] > 1000
    assert figures["seconds"] > 0
    assert 0 <= figures["padding"] <= 0.05
