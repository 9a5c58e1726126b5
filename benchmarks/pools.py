"""Cost of a round with a pool for corpora of different sizes: what is scored, seconds, memory.

A run with a budget of 10,000 samples in three rounds and `pool: {multiple: 3}` draws, scores and
selects, by a task without work (`noop_task.py`). Whole row groups are drawn. Its corpora have 10^6
rows and more, in shards of 10,000 that are one file under many names. They are measured in turns,
because other programs may use the machine; compare processor seconds. `open` is reading the
manifest and its digest, once in a run. Writes a table, and JSON to benchmarks/results/.

    python benchmarks/pools.py --turns 5
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
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
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
BUDGET, MULTIPLE, ROUNDS, SHARD_ROWS, GROUP_ROWS = 10_000, 3, 3, 10_000, 1_000


def write_corpus(folder: Path, *, num_rows: int) -> None:
    """Write a corpus of `num_rows` rows: hard links to one shard."""
    first = folder / "first.parquet"
    folder.mkdir(parents=True)
    pl.DataFrame({"number": range(SHARD_ROWS)}).write_parquet(first, row_group_size=GROUP_ROWS)
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
                "pool": {"multiple": MULTIPLE, "block_rows": "row_group"},
            },
        }
    )
    shutil.rmtree(folder / "run", ignore_errors=True)
    rounds = []
    with connect(ClusterSettings(workers=1)) as client:

        def of_worker(function: Callable[[], float]) -> float:
            return next(iter(client.run(function).values()))

        started = process_time()
        run = prepare(config, cluster=lambda: client)
        assert run.corpus.corpus_id
        opened = process_time() - started
        for round_ in run.rounds:
            started, worker_started = process_time(), of_worker(process_time)
            score_stage(
                run,
                round_,
                cluster=lambda: client,
                checkpoint=run.layout.initial_checkpoint,
            )
            index = select_stage(run, round_)
            drawn = IndexFile.open(run.layout.candidates(round_.number))
            rounds.append(
                {
                    "drawn": drawn.num_samples,
                    "read": GROUP_ROWS * _num_groups(drawn),
                    "scored": pools.pool_provenance(run.catalog, round_.number)["scored"],
                    "selected": index.num_samples,
                    "driver_seconds": process_time() - started,
                    "worker_seconds": of_worker(process_time) - worker_started,
                }
            )
        worker_peak = of_worker(_peak_mib)
    return {
        "open_seconds": opened,
        "driver_peak_mib": _peak_mib(),
        "worker_peak_mib": worker_peak,
        "rounds": rounds,
    }


def _num_groups(drawn: IndexFile) -> int:
    """Return the number of row groups that have one of the rows."""
    group = pl.struct("shard_id", pl.col("row") // GROUP_ROWS)
    return int(drawn.frame().select(group.n_unique()).collect().item())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def summary(num_rows: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the turns; seconds are of the rounds after the first one."""
    row: dict[str, Any] = {"num_rows": num_rows, "turns": len(turns)}
    for name in ("drawn", "scored", "read", "selected"):
        row[name] = sum(round_[name] for round_ in turns[0]["rounds"])
    for name in ("open_seconds", "driver_peak_mib", "worker_peak_mib"):
        row[name] = round(median(turn[name] for turn in turns), 2)
    for name in ("driver_seconds", "worker_seconds"):
        for kind, rounds in (("first", slice(1)), ("round", slice(1, None))):
            values = [round_[name] for turn in turns for round_ in turn["rounds"][rounds]]
            row[f"{kind}_{name}"] = round(median(values), 3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7, 1e8, 1e9])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    sizes = [int(rows) for rows in options.rows]
    turns: dict[int, list[dict[str, Any]]] = {num_rows: [] for num_rows in sizes}
    with tempfile.TemporaryDirectory(prefix="attent-pools-") as folder:
        for num_rows in sizes:
            write_corpus(Path(folder, str(num_rows)), num_rows=num_rows)
        for num_rows in sizes * options.turns:
            turns[num_rows].append(_measure_apart(Path(folder, str(num_rows))))
    results = [summary(num_rows, turns[num_rows]) for num_rows in sizes]
    for row in results:
        print(json.dumps(row), flush=True)
    report = {"machine": machine.describe(), "budget": BUDGET, "results": results}
    path = options.results / "pools.json"
    path.write_text(json.dumps(report, indent=2) + "\n")


def _measure_apart(folder: Path) -> dict[str, Any]:
    """Measure in a new process."""
    command = [sys.executable, __file__, "--measure", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


if __name__ == "__main__":
    main()
