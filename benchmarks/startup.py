"""Start-up of commands: processor seconds, and their ratio to the imports that they cannot avoid.

    python benchmarks/startup.py [--repeat 5]

Prints one JSON object. Each number is the smallest of several processes: user and system seconds,
which a busy machine changes little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

# Command → the imports that it is compared with.
COMMANDS = {
    "--help": "import typer",
    "query": "import polars, pydantic, yaml, sqlglot",
    "select": "import polars, pydantic, yaml",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="Number of processes per number.")
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "--help": ["--help"],
            "query": ["query", make_run(Path(folder)), "SELECT count(*) AS n FROM corpus"],
            "select": ["select", make_losses(Path(folder)), "--ratio", "0.5", "--dry-run"],
        }
        rows = {}
        for command, imports in COMMANDS.items():
            seconds = cpu_seconds(["-m", "attent_select", *arguments[command]], repeat=repeat)
            floor = cpu_seconds(["-c", imports], repeat=repeat)
            rows[command] = {
                "cpu_seconds": round(seconds, 3),
                "imports": imports,
                "imports_cpu_seconds": round(floor, 3),
                "ratio": round(seconds / floor, 2),
            }
    print(json.dumps(rows, indent=1))


def make_losses(folder: Path) -> str:
    """Write a hundred losses as a Parquet file."""
    path = folder / "losses.parquet"
    frame = pl.DataFrame({"shard_id": [0] * 100, "row": range(100), "loss": [1.0] * 100})
    frame.cast({"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}).write_parquet(path)
    return str(path)


def make_run(folder: Path) -> str:
    """Write a run that has only a corpus, of one shard."""
    from catalogs import Corpus, storage
    from catalogs.shards import inspect_shard

    shard, run = folder / "shard.parquet", folder / "run"
    pl.DataFrame({"text": ["a", "b"]}).write_parquet(shard)
    stored = storage.expand([str(shard)])[0]
    inspection = inspect_shard(stored.url, "parquet", members_url="")
    Corpus.from_inspections([(stored, "parquet", inspection)]).save(str(run))
    return str(run)


def cpu_seconds(arguments: list[str], *, repeat: int) -> float:
    """Return the smallest processor seconds of `repeat` Python processes."""
    return min(_cpu_seconds(arguments) for _ in range(repeat))


def _cpu_seconds(arguments: list[str]) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


if __name__ == "__main__":
    main()
