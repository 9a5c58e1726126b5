"""Fixed costs of a run: processor seconds of all its processes, over the number of samples.

The task computes almost nothing (`noop_task.py`), so that all seconds are those of the loop:
imports, start of workers, spans, snapshots, selection, streaming, checkpoints, publishing. One run
has a round on everything; another one has ten more on a tenth, each of them scored. Their
difference is the cost of ten rounds.

    python benchmarks/fixed_costs.py                       # up to 10^6 samples
    python benchmarks/fixed_costs.py --against FOLDER      # an older checkout, in turns

Writes benchmarks/results/fixed_costs.json.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
import polars as pl
import yaml

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results/fixed_costs.json"
# Of Linux (`prctl`): processes whose parent has ended become children of this one.
_CHILD_SUBREAPER = 36
_SHARDS = 4
_ROUNDS = 10


def write_corpus(folder: Path, *, num_samples: int) -> Path:
    """Write numbers in four shards, and a few held-out ones."""
    numbers = pl.DataFrame({"number": np.random.default_rng(0).random(num_samples)})
    for shard in range(_SHARDS):
        path = folder / f"shards/{shard}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers[shard::_SHARDS].write_parquet(path)
    return folder / "shards"


def configuration(run: Path, shards: Path, *, num_samples: int, epochs: int) -> dict[str, Any]:
    """Return the values of a run with one round for each epoch."""
    return {
        "run": str(run),
        "corpus": {"shards": [str(shards)]},
        "task": {"name": "noop_task.Trainable"},
        "model": {},
        "selection": {"strategy": "hard"},
        "schedule": {"epochs": epochs, "warmup_epochs": 1, "ratio": {"start": 0.1}},
        "scoring": {"span_samples": 50_000, "dtype": "float32"},
        "training": {"batch_size": max(32, num_samples // 100), "torch_threads": 1},
        "cluster": {"workers": 1},
    }


def cpu_seconds(checkout: Path, config: Path) -> float:
    """Return the processor seconds of `attent run` and of all processes that it started."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "attent_select", "run", str(config)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": f"{checkout}:{checkout / 'benchmarks'}"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    while True:  # those that outlived it
        try:
            os.wait()
        except ChildProcessError:
            break
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


def measure(checkout: Path, *, num_samples: int, folder: Path) -> dict[str, float]:
    """Return the seconds of a run of one round, and of each further round."""
    shards = write_corpus(folder, num_samples=num_samples)
    seconds = []
    for epochs in (1, 1 + _ROUNDS):
        values = configuration(
            folder / f"run{epochs}", shards, num_samples=num_samples, epochs=epochs
        )
        config = folder / f"{epochs}.yaml"
        config.write_text(yaml.safe_dump(values))
        seconds.append(cpu_seconds(checkout, config))
    return {"first": round(seconds[0], 2), "round": round((seconds[1] - seconds[0]) / _ROUNDS, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=float, default=1e6, help="Largest number of samples.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, help="Checkout to compare with.")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
    checkouts = {"now": ROOT} | ({"before": arguments.against} if arguments.against else {})
    rows = []
    for exponent in range(3, 1 + int(np.log10(arguments.most))):
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
        for _ in range(arguments.repeats):
            for name, checkout in checkouts.items():
                with tempfile.TemporaryDirectory() as folder:
                    one = measure(checkout, num_samples=10**exponent, folder=Path(folder))
                    measured[name].append(one)
        row: dict[str, Any] = {"num_samples": 10**exponent}
        for name, values in measured.items():
            row[name] = {key: min(each[key] for each in values) for key in values[0]}
        rows.append(row)
        print(json.dumps(row), flush=True)
        result = {"machine": machine.describe(), "repeats": arguments.repeats, "rows": rows}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
