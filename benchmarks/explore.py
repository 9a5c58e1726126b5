"""Processor time and memory of a filter in `attent explore`, against reading its columns once.

Generates a run with losses and two annotations, part by part on disk, then reads the columns of a
filter, and answers the filter, in subprocesses in alternation. Writes JSON to benchmarks/results/.

    python benchmarks/explore.py                       # 10^7 rows
    python benchmarks/explore.py --rows 1e8 --folder /data/explore   # 2 GB of disk
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import machine
import numpy as np
import polars as pl

from attent_select import schema
from catalogs import AnnotationStore, Corpus, LossCatalog
from catalogs.shard_format import Shard
from pipeline.explorer.distributions import distributions, scatter
from pipeline.explorer.filters import Filter
from pipeline.explorer.sample_lists import list_candidates, list_samples
from pipeline.explorer.source import Source, run_chunks
from pipeline.selection.select_command import peak_rss_bytes

RESULTS = Path(__file__).parent / "results"
SHARD_ROWS = 500_000
SOURCES = ("web", "code", "books", "forums", "papers")
COLUMNS = ["loss", "relevance"]
FILTER = Filter.parse({"where": "loss > 1 AND relevance < 0.5", "ranges": {"loss": [None, 3]}})


def generate(run: Path, num_rows: int) -> None:
    """Write a run of shards that do not exist: only their losses and annotations are read."""
    if (run / "losses" / "snapshots").exists():
        return
    counts = [min(SHARD_ROWS, num_rows - first) for first in range(0, num_rows, SHARD_ROWS)]
    shards = [
        Shard(number, f"/nowhere/{number:06d}.parquet", "parquet", count, count * 1000, str(number))
        for number, count in enumerate(counts)
    ]
    Corpus(tuple(shards), ("text",)).save(str(run))
    catalog, store = LossCatalog(str(run)), AnnotationStore(str(run))
    losses, relevance, source = [], [], []
    for number, count in enumerate(counts):
        rng = np.random.default_rng(number)
        ids = pl.DataFrame({"row": np.arange(count, dtype=np.uint32)}).select(
            pl.lit(number, pl.UInt32).alias("shard_id"), "row"
        )
        loss = pl.Series("loss", rng.gamma(1.2 + 0.3 * np.sin(number), 0.7, count), pl.Float32)
        rows = ids.with_columns(
            loss,
            num_units=pl.Series(rng.integers(10, 2000, count), dtype=pl.UInt32),
            status=pl.lit(schema.OK),
            measured_step=pl.lit(0, pl.UInt64),
            origin=pl.lit(schema.SCORED),
            visits=pl.lit(0, pl.UInt16),
        )
        catalog.write_span(f"{number}", rows.select(*schema.LOSSES))
        losses.append(catalog.compact([f"{number}"], round_number=0))
        values = pl.Series("value", rng.normal(0.0, 1.0, count), pl.Float32)
        relevance.append(store.write_part("relevance", ids.with_columns(values)))
        names = pl.Series("value", np.array(SOURCES)[rng.integers(0, len(SOURCES), count)])
        source.append(store.write_part("source", ids.with_columns(names)))
    store.publish("relevance", kind="column", parts=relevance)
    store.publish("source", kind="column", parts=source)
    catalog.publish(0, losses, provenance={})


def read(source: Source) -> int:
    return sum(run_chunks(source.read(COLUMNS), len))


def read_with_source(source: Source) -> int:
    return sum(run_chunks(source.read([*COLUMNS, "source"]), len))


def answer_filter(source: Source) -> int:
    return int(distributions(source, COLUMNS, where=FILTER)["matching"])


def answer_groups(source: Source) -> int:
    return int(distributions(source, COLUMNS, where=FILTER, by="source")["matching"])


def draw_scatter(source: Source) -> int:
    return int(scatter(source, *COLUMNS, where=FILTER)["matching"])


def list_hardest(source: Source) -> int:
    return int(list_samples(source, "hardest", where=FILTER)["matching"])


def search_candidates(source: Source) -> int:
    """Search all shards for suspected label errors, as the page does."""
    matching, first_shard = 0, 0
    while first_shard is not None:
        answer = list_candidates(source, where=FILTER, count=500, first_shard=first_shard)
        matching, first_shard = matching + answer["matching"], answer["next_shard"]
    return int(matching)


QUERIES = {
    "read the columns": read,
    "read the columns and source": read_with_source,
    "filter": answer_filter,
    "filter, compared by source": answer_groups,
    "scatter": draw_scatter,
    "hardest samples": list_hardest,
    "candidates": search_candidates,
}

# What a query is compared with: reading the columns that it reads.
READING = {"filter, compared by source": "read the columns and source"}


def one(query: str, run: Path) -> dict[str, float]:
    """Measure a query in this process, imports and opening the run not counted."""
    source = Source.open(str(run), max_rows=10**10)
    started, processor = time.perf_counter(), time.process_time()
    rows = QUERIES[query](source)
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "peak_rss_bytes": peak_rss_bytes(),
        "rows": rows,
    }


def measure(query: str, run: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", query, "--folder", str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def compare(run: Path, *, repeats: int) -> list[dict[str, object]]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in QUERIES}
    for _ in range(repeats):
        for name in QUERIES:
            runs[name].append(measure(name, run))
            print(f"  {name:28} {runs[name][-1]['processor_seconds']:8.2f} s", file=sys.stderr)
    return [
        {
            "query": name,
            "processor_seconds": round(median(one["processor_seconds"] for one in each), 3),
            "seconds": round(median(one["seconds"] for one in each), 3),
            "times_reading": round(
                median(
                    one["processor_seconds"] / base["processor_seconds"]
                    for one, base in zip(
                        each, runs[READING.get(name, "read the columns")], strict=True
                    )
                ),
                2,
            ),
            "peak_rss_mib": round(max(one["peak_rss_bytes"] for one in each) / 2**20),
        }
        for name, each in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the run is kept between calls")
    parser.add_argument("--name", default="explore")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        run = (options.folder or Path(folder)) / f"{int(options.rows)}"
        generate(run, int(options.rows))
        results = compare(run, repeats=options.repeats)
    for result in results:
        print(result)
    RESULTS.mkdir(exist_ok=True)
    answer = {"machine": machine.describe(), "rows": int(options.rows), "results": results}
    (RESULTS / f"{options.name}.json").write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
