"""Cost of a round with a pool for corpora of different sizes: what is scored, seconds, memory.

A run with a budget of 10,000 samples in three rounds and `pool: {multiple: 3}` draws, scores and
selects, by a task without work (`noop_task.py`). Its corpora have 10^6 rows and more, in shards of
10,000 that are one file under many names. Writes a table, and JSON to benchmarks/results/.

    python benchmarks/pools.py
    python benchmarks/pools.py --rows 1e6 1e9
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import machine
import polars as pl

from catalogs import Corpus, IndexFile, storage
from catalogs.losses import pools
from catalogs.shard_format import Shard
from pipeline.cluster import connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.runs.state import prepare
from pipeline.scoring.score_stage import score_stage
from pipeline.selection.select_stage import select_stage

RESULTS = Path(__file__).parent / "results"
# Of one file, on ext4.
_MOST_LINKS = 50_000
BUDGET, MULTIPLE, ROUNDS, SHARD_ROWS = 10_000, 3, 3, 10_000


def write_corpus(folder: Path, *, num_rows: int) -> None:
    """Write a corpus of `num_rows` rows: hard links to one shard."""
    first = folder / "first.parquet"
    folder.mkdir(parents=True)
    pl.DataFrame({"number": range(SHARD_ROWS)}).write_parquet(first, row_group_size=1000)
    shards = []
    for number in range(num_rows // SHARD_ROWS):
        # Few names in a folder.
        path = folder / f"{number // 1000:04d}" / f"{number:08d}.parquet"
        path.parent.mkdir(exist_ok=True)
        if number % _MOST_LINKS == 0:
            shutil.copyfile(first, path)
            first = path
        else:
            os.link(first, path)
        shards.append((number, path))
    num_bytes = first.stat().st_size
    corpus = Corpus(
        tuple(
            Shard(n, str(path), "parquet", SHARD_ROWS, num_bytes, _etag(path)) for n, path in shards
        ),
        ("number",),
    )
    corpus.publish(str(folder / "corpus"))


def _etag(path: Path) -> str:
    stored = storage.info(str(path))
    assert stored is not None
    return stored.etag


def measure(folder: Path) -> dict[str, Any]:
    """Draw, score and select all rounds of a run on the corpus in `folder`; one row per round."""
    config = run_config.parse(
        {
            "run": str(folder / "run"),
            "corpus": {"path": str(folder / "corpus")},
            "task": {"name": "noop_task.NoOp"},
            "model": {"path": "none"},
            "selection": {"strategy": "hard"},
            "schedule": {
                "budget": {"samples": BUDGET},
                "rounds": ROUNDS,
                "pool": {"multiple": MULTIPLE},
            },
        }
    )
    rounds = []
    with connect(ClusterSettings(workers=1)) as client:
        started = perf_counter()
        run = prepare(config, cluster=lambda: client)
        opened = perf_counter() - started
        for round_ in run.rounds:
            started, cpu = perf_counter(), process_time()
            score_stage(
                run,
                round_,
                cluster=lambda: client,
                checkpoint=run.layout.initial_checkpoint,
            )
            index = select_stage(run, round_)
            rounds.append(
                {
                    "drawn": IndexFile.open(run.layout.candidates(round_.number)).num_samples,
                    "scored": pools.pool_provenance(run.catalog, round_.number)["scored"],
                    "selected": index.num_samples,
                    "seconds": round(perf_counter() - started, 2),
                    "driver_cpu_seconds": round(process_time() - cpu, 2),
                }
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"open_seconds": round(opened, 2), "driver_peak_mib": round(peak), "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7, 1e8, 1e9])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    results = []
    for num_rows in map(int, options.rows):
        with tempfile.TemporaryDirectory(prefix="attent-pools-") as folder:
            write_corpus(Path(folder, "data"), num_rows=num_rows)
            done = subprocess.run(
                [sys.executable, __file__, "--measure", f"{folder}/data"],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise SystemExit(done.stderr)
        row = {"num_rows": num_rows, **json.loads(done.stdout.splitlines()[-1])}
        results.append(row)
        print(json.dumps(row), flush=True)
    report = {"machine": machine.describe(), "budget": BUDGET, "results": results}
    path = options.results / "pools.json"
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
