"""The benchmark of streaming runs, on a few digits."""

import json
from pathlib import Path

import process_copies

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_it_streams_digits_from_disk_and_from_a_server_that_counts(tmp_path: Path) -> None:
    options = ["--quick", "--samples", "600", "--only", "ours", "--cells", "10% scattered"]
    files = ["--folder", str(tmp_path), "--results", str(tmp_path), "--name", "test"]
    done = process_copies.run(BENCHMARKS / "streaming.py", *options, *files)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "test.png").exists()
    report = json.loads((tmp_path / "test.json").read_text())
    assert len(report["results"]) == 6
    for row in report["results"]:
        assert row["samples"] == 60
        assert row["is_complete"]
        assert row["samples_per_second"] > 0
        assert row["num_requests"] > 0
        # Whole row groups are read, once.
        assert row["samples"] * 100 < row["bytes_read"] < 4_000_000
