"""Selection against its limit: reading the columns once.

R is the processor time to read the loss column of a loss catalog with pyarrow, I that to read
shard_id, row and loss of Parquet files that another program wrote. Selection is measured in units
of these, so that results of different processors can be compared. All run in subprocesses with one
thread, in turns; imports are not counted. Writes a table and JSON to benchmarks/results/.

    python benchmarks/selection_limits.py                       # 10^8 rows, 1 GB of disk
    python benchmarks/selection_limits.py --against ../before   # another checkout, in turns
    NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" python benchmarks/selection_limits.py \
        --name selection_limits_no_avx512
    python benchmarks/selection_limits.py --rows 1e9 --repeats 1 --only "R,own hard,own soft" \
        --name selection_limits_1e9                             # 4 GB of disk
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import machine
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import selection

from pipeline.selection.choice import Budget
from pipeline.selection.select_command import peak_rss_bytes, select_losses
from pipeline.selection.selection_options import SelectionOptions

COLUMNS = ["shard_id", "row", "loss"]
# The environment of one thread.
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


def write_plainly(own: Path, folder: Path) -> None:
    """Write the rows of a loss catalog as another program would: by the defaults of polars."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(own.glob("*.parquet")):
        if not (copy := folder / path.name).exists():
            pl.read_parquet(path, columns=COLUMNS).write_parquet(copy)


def read(folder: Path, *, columns: list[str]) -> None:
    for path in sorted(folder.glob("*.parquet")):
        pq.ParquetFile(path).read(columns=columns, use_threads=False)


def select_own(folder: Path, *, strategy: str) -> None:
    selection.ours(sorted(map(str, folder.glob("*.parquet"))), strategy)


def select_own_ids(folder: Path, *, strategy: str) -> None:
    selection.ours_to_ids(sorted(map(str, folder.glob("*.parquet"))), strategy)


def select_any(folder: Path, *, strategy: str) -> None:
    with tempfile.TemporaryDirectory() as out:
        select_losses(
            f"{folder}/*.parquet",
            out=f"{out}/index.parquet",
            budget=Budget(ratio=selection.RATIO),
            options=SelectionOptions(strategy=strategy),
        )


# Method → (limit, its target in units of the limit or None, work, whether the files are our own).
METHODS: dict[str, tuple[str, float | None, Callable[[Path], None], bool]] = {
    "R": ("R", None, partial(read, columns=["loss"]), True),
    "I": ("I", None, partial(read, columns=COLUMNS), False),
    "own hard": ("R", 4.5, partial(select_own, strategy="hard"), True),
    "own hard ids": ("R", 2.5, partial(select_own_ids, strategy="hard"), True),
    "own soft": ("R", 10.0, partial(select_own, strategy="soft"), True),
    "any hard": ("I", 2.5, partial(select_any, strategy="hard"), False),
    "any soft": ("I", 4.0, partial(select_any, strategy="soft"), False),
}


def one(method: str, folders: dict[bool, Path]) -> dict[str, float]:
    _, _, work, is_own = METHODS[method]
    pa.set_cpu_count(1)
    started = time.process_time()
    work(folders[is_own])
    return {"seconds": time.process_time() - started, "peak_rss_bytes": peak_rss_bytes()}


def measure(method: str, options: argparse.Namespace, *, checkout: Path) -> dict[str, float]:
    """Measure a method of the code in `checkout`."""
    script = str(checkout / "benchmarks" / Path(__file__).name)
    command = [sys.executable, script, "--one", method, "--rows", str(options.rows)]
    done = subprocess.run(
        [*command, "--folder", str(options.folder.absolute())],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
    )
    return dict(json.loads(done.stdout))


def results_of(runs: dict[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    """Return medians, and their ratios to the limits."""
    seconds = {name: median(run["seconds"] for run in each) for name, each in runs.items()}
    return [
        {
            "method": name,
            "seconds": round(seconds[name], 2),
            "limit": METHODS[name][0],
            "ratio": round(seconds[name] / seconds[METHODS[name][0]], 2),
            "target": METHODS[name][1],
            "peak_rss_mib": round(max(run["peak_rss_bytes"] for run in each) / 2**20),
        }
        for name, each in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "attent-bench"))
    parser.add_argument("--only", default=",".join(METHODS), help="comma-separated methods")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="selection_limits", help="of the result file")
    parser.add_argument("--against", type=Path, help="another checkout, measured in turns")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    own = options.folder / f"{int(options.rows)}_losses"
    folders = {True: own, False: own.with_name(f"{own.name}_plain")}
    if options.one:
        print(json.dumps(one(options.one, folders)))
        return
    selection.generate(own, int(options.rows), extra=())
    if not all(METHODS[name][3] for name in options.only.split(",")):
        write_plainly(own, folders[False])
    checkouts = {"": Path(__file__).absolute().parents[1]}
    if options.against is not None:
        checkouts["before"] = options.against.absolute()
    names = options.only.split(",")
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        label: {name: [] for name in names} for label in checkouts
    }
    for _ in range(options.repeats):
        for name in names:
            for label, checkout in checkouts.items():
                runs[label][name].append(measure(name, options, checkout=checkout))
                seconds = runs[label][name][-1]["seconds"]
                print(f"  {name:16} {seconds:8.2f} s {label}", file=sys.stderr)
    results = results_of(runs[""])
    where = {
        **machine.describe(),
        "polars": pl.__version__,
        "numpy": np.__version__,
        "numpy_features_off": os.environ.get("NPY_DISABLE_CPU_FEATURES", ""),
    }
    report = {"machine": where, "rows": int(options.rows), "results": results}
    if options.against is not None:
        report["before"] = results_of(runs["before"])
    path = selection.RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    with pl.Config(tbl_rows=-1, fmt_str_lengths=40):
        print(pl.DataFrame(results))


if __name__ == "__main__":
    main()
