"""The benchmark of scattered reads: it runs, and every method streams the same samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_every_method_streams_the_same_samples(tmp_path: Path) -> None:
    pytest.importorskip("lance.file", reason="pylance is not installed")
    result = tmp_path / "scattered.json"
    script = REPOSITORY / "benchmarks" / "scattered.py"
    options = ("--quick", "--repeats", "1", "--kinds", "large", "--result", str(result))
    subprocess.run(
        [sys.executable, str(script), *options, "--folder", str(tmp_path)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    rows = json.loads(result.read_text())["results"]
    for share in (0.01, 0.1):
        of_share = [row for row in rows if row["share"] == share]
        assert len(of_share) == 5
        assert len({row["digest"] for row in of_share}) == 1
        read = {row["method"]: row["bytes_read"] for row in of_share}
        assert read["lance"] < read["parquet-10"] < read["parquet"]
