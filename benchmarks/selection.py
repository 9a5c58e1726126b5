"""Time and memory of selection, from 10^6 to 10^9 losses, against other methods.

Generates catalogs part by part on disk, then runs every method in a subprocess, in alternation.
`ours` goes from the files to a finished index file; `ours to ids` from the files to the ids in
memory, like the other methods, which run if the machine's memory allows. Writes a table, JSON and
a log-log plot to benchmarks/results/.

    python benchmarks/selection.py                          # 10^6, 10^7, 10^8 rows
    python benchmarks/selection.py --rows 1e9 --only ours --name selection_1e9   # 7 GB of disk
"""

import argparse
import importlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import machine
import numpy as np
import polars as pl

from attent_select import Selection, plugins, schema, select
from catalogs import IndexFile
from catalogs.tables import frames
from catalogs.tables.scan import Scan
from pipeline.selection.select_command import peak_rss_bytes

RESULTS = Path(__file__).parent / "results"
RATIO = 0.2
PART_ROWS = 500_000
# Columns that some strategies read.
EXTRA_COLUMNS = {"reference_loss": pl.Float32, schema.FUNCTIONAL_GRADIENT: pl.Float32}
STRATEGIES = plugins.plugin_names("attent_select.strategies")
# Maximum rows of a method, beyond which it needs more memory than is available here.
MAX_PEER_ROWS = {"polars top_k": 1e8, "duckdb": 1e8, "numpy argpartition": 5e8, "torch topk": 5e8}


def generate(folder: Path, num_rows: int, *, extra: Sequence[str] = tuple(EXTRA_COLUMNS)) -> None:
    """Write a catalog of `num_rows` rows in parts of half a million; shards have unlike losses."""
    kinds = {name: EXTRA_COLUMNS[name] for name in extra}
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(-(-num_rows // PART_ROWS)):
        path = folder / f"{part:06d}.parquet"
        if path.exists():
            continue
        rows = min(PART_ROWS, num_rows - part * PART_ROWS)
        rng = np.random.default_rng(part)
        loss = rng.gamma(1.2 + 0.3 * np.sin(part), 0.7, rows)
        table = pl.DataFrame({"row": np.arange(rows, dtype=np.uint32)}).with_columns(
            shard_id=pl.lit(part),
            loss=pl.Series(loss, dtype=pl.Float32),
            num_units=pl.lit(1),
            status=pl.lit(schema.OK),
            measured_step=pl.lit(0),
            origin=pl.lit(schema.SCORED),
            visits=pl.lit(0),
            **{
                name: pl.Series(rng.gamma(1.0, 0.3, rows), dtype=kind)
                for name, kind in kinds.items()
            },
        )
        every = schema.LOSSES | kinds
        typed = table.select(pl.col(name).cast(kind) for name, kind in every.items())
        frames.publish_frame(str(path), typed, notes={frames.DENSE: True})


def run_selection(files: list[str], strategy: str) -> Selection:
    rule = plugins.load_plugin("attent_select.strategies", strategy)()
    kinds = {name: kind for name, kind in EXTRA_COLUMNS.items() if name in rule.columns}
    scan = Scan.of(files, schema=schema.LOSSES | kinds)
    return select(
        scan,
        strategy=rule,
        ratio=RATIO,
        preview=scan.preview(),
    )


def ours(files: list[str], strategy: str) -> int:
    """From the files to an index file."""
    with tempfile.TemporaryDirectory() as folder:
        index = IndexFile.write(
            f"{folder}/index.parquet", run_selection(files, strategy).frames(), provenance={}
        )
        return index.num_samples


def ours_to_ids(files: list[str], strategy: str) -> int:
    """From the files to the ids in memory."""
    frames = [
        rows.select(schema.SHARD_ID, schema.ROW) for rows in run_selection(files, strategy).frames()
    ]
    return sum(len(rows) for rows in frames)


def polars_top_k(files: list[str]) -> int:
    losses = pl.scan_parquet(files, glob=False).select("shard_id", "row", "loss")
    total = pl.scan_parquet(files, glob=False).select(pl.len()).collect().item()
    return len(losses.top_k(int(total * RATIO), by="loss").collect(engine="streaming"))


def numpy_argpartition(files: list[str]) -> int:
    losses = read_losses(files)
    m = int(len(losses) * RATIO)
    return len(np.argpartition(losses, len(losses) - m)[-m:])


def torch_topk(files: list[str]) -> int:
    import torch

    losses = torch.from_numpy(read_losses(files))
    return len(torch.topk(losses, int(len(losses) * RATIO), sorted=False).indices)


def duckdb(files: list[str]) -> int:
    import duckdb as duck

    with duck.connect() as connection:
        connection.execute(f"SET threads = {pl.thread_pool_size()}")
        source = f"read_parquet({files!r})"
        (total,) = connection.execute(f"SELECT count(*) FROM {source}").fetchone() or (0,)
        m = int(total * RATIO)
        connection.execute(
            f"CREATE TABLE s AS SELECT shard_id, row FROM {source} ORDER BY loss DESC LIMIT {m}"
        )
        return int((connection.execute("SELECT count(*) FROM s").fetchone() or (0,))[0])


def read_losses(files: list[str]) -> np.ndarray:
    import pyarrow.parquet as pq

    parts = [pq.read_table(file, columns=["loss"])["loss"].to_numpy() for file in files]
    return np.concatenate(parts)


METHODS: dict[str, Callable[[list[str]], int]] = {
    **{f"ours: {name}": partial(ours, strategy=name) for name in STRATEGIES},
    **{f"ours to ids: {name}": partial(ours_to_ids, strategy=name) for name in ("hard", "soft")},
    "polars top_k": polars_top_k,
    "duckdb": duckdb,
    "numpy argpartition": numpy_argpartition,
    "torch topk": torch_topk,
}


# Imports of a method, which are not counted.
IMPORTS = {"duckdb": "duckdb", "torch topk": "torch"}


def measure(method: str, folder: Path) -> dict[str, float]:
    """Measure one method in a subprocess; imports are not counted."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", method, "--folder", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


def one(method: str, folder: Path) -> dict[str, float]:
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    if method in IMPORTS:
        importlib.import_module(IMPORTS[method])
    started = time.perf_counter()
    selected = METHODS[method](files)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_rss_bytes": peak_rss_bytes(), "selected": selected}


def compare(num_rows: int, folder: Path, *, only: str, repeats: int) -> list[dict[str, object]]:
    """Run all methods that fit in alternation, so that variations of speed affect all of them."""
    tried = [name for name in METHODS if name.startswith(tuple(only.split(",")))]
    methods = [name for name in tried if num_rows <= MAX_PEER_ROWS.get(name, math.inf)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name in methods:
            runs[name].append(measure(name, folder))
            print(f"  {name:24} {runs[name][-1]['seconds']:8.2f} s", file=sys.stderr)
    return [
        {
            "method": name,
            "rows": num_rows,
            "selected": int(each[0]["selected"]),
            "seconds": round(median(run["seconds"] for run in each), 3),
            "all_seconds": [round(run["seconds"], 3) for run in each],
            "peak_rss_mib": round(max(run["peak_rss_bytes"] for run in each) / 2**20),
        }
        for name, each in runs.items()
    ]


def ratios(results: list[dict[str, object]]) -> dict[str, float]:
    """Time of the other methods relative to ours, on the largest size that all ran."""
    fitting = [r for r in results if r["rows"] <= MAX_PEER_ROWS["polars top_k"]]
    most = max((r["rows"] for r in fitting), default=0)
    seconds = {str(r["method"]): float(r["seconds"]) for r in fitting if r["rows"] == most}
    return {
        f"{peer} / {our}": round(seconds[peer] / seconds[our], 2)
        for our in ("ours to ids: hard", "ours: hard", "ours to ids: soft", "ours: soft")
        for peer in MAX_PEER_ROWS
        if peer in seconds and our in seconds
    }


def plot(results: list[dict[str, object]], path: Path) -> None:
    import altair as alt

    base = alt.Chart(pl.DataFrame(results)).encode(
        x=alt.X("rows:Q", scale=alt.Scale(type="log"), title="rows"),
        color=alt.Color("method:N", sort=None, scale=alt.Scale(scheme="category20")),
    )
    charts = [
        base.mark_line(point=True)
        .encode(y=alt.Y(f"{column}:Q", scale=alt.Scale(type="log"), title=title))
        .properties(width=420, height=320)
        for column, title in (("seconds", "seconds"), ("peak_rss_mib", "peak memory, MiB"))
    ]
    alt.hconcat(*charts, title=f"Selecting {RATIO:.0%} of the rows").save(path, scale_factor=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1e6,1e7,1e8", help="comma-separated")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "attent-bench"))
    parser.add_argument("--only", default="", help="methods that begin with one of these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--name", default="selection", help="of the result files")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.folder)))
        return
    results = []
    for num_rows in (int(float(rows)) for rows in options.rows.split(",")):
        folder = options.folder / str(num_rows)
        generate(folder, num_rows)
        print(f"{num_rows:,} rows", file=sys.stderr)
        results += compare(num_rows, folder, only=options.only, repeats=options.repeats)
    where = {
        **machine.describe(),
        "polars": pl.__version__,
        "numpy": np.__version__,
    }
    report = {"machine": where, "ratio": RATIO, "ratios": ratios(results), "results": results}
    text = json.dumps(report, indent=1)
    options.results.mkdir(exist_ok=True)
    (options.results / f"{options.name}.json").write_text(text + "\n")
    plot(results, options.results / f"{options.name}.png")
    with pl.Config(tbl_rows=-1, fmt_str_lengths=40):
        print(pl.DataFrame(results).drop("all_seconds"))
    print(json.dumps(report["ratios"], indent=1))


if __name__ == "__main__":
    main()
