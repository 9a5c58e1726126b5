"""Constants of the model of growth: memory, bytes and processor time for each shard, span and row.

Each part runs in a process that does nothing else, on data that is generated: 10^5 shards or some
10^6 rows, in a few seconds. Processor seconds are of all threads. Memory is the peak beyond what
the process had when its imports were done. `--only manifest,plan` measures these parts and keeps
the other results. Writes benchmarks/results/scale.json, from which
`pipeline/doctor/scale_constants.py` has its numbers; `scale_page.py` makes the tables of
docs/scale.md.

    python benchmarks/scale.py
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import process_time
from typing import Any

import machine
import numpy as np
import polars as pl

from attent_select import schema
from attent_select.schedule.candidate_walk import CandidateWalk, Place
from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.losses.catalog import BatchSplits, PartSummary, ShardLosses
from catalogs.shard_format import Inspection, Shard
from catalogs.shards import inspect_shard
from catalogs.storage.objects import ObjectInfo

RESULTS = Path(__file__).parent / "results"
# `selected` of `index` rows are chosen; `candidates` are drawn from a thousand times as many.
SIZES = {"shards": 100_000, "rows": 2_000_000, "index": 100_000_000, "candidates": 1_000_000}
RATIO, SHARD_ROWS = 0.2, 10_000
Numbers = dict[str, float]


class Meter:
    """Processor seconds and peak memory from now on."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what there is now
        self._memory, self._seconds = _peak_bytes(), process_time()

    def seconds(self) -> float:
        """Return the processor seconds since the last call."""
        before, self._seconds = self._seconds, process_time()
        return self._seconds - before

    @property
    def peak_bytes(self) -> int:
        return max(0, _peak_bytes() - self._memory)


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def _shards(count: int) -> Iterator[Shard]:
    """Yield shards with URLs and etags as long as those of S3."""
    for number in range(count):
        uri = f"s3://a-bucket-of-usual-length/corpora/web-2026/part-{number:08d}.parquet"
        etag = _digest(uri)
        yield Shard(number, uri, "parquet", SHARD_ROWS, 50_000_000 + int(etag[:4], 16), etag)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _write_corpus(folder: Path, count: int) -> None:
    Corpus(tuple(_shards(count)), ("text",)).publish(str(folder / "corpus"))


def measure_ingest(meter: Meter, folder: Path) -> Numbers:
    """Measure what the driver of `attent ingest` keeps about each shard, and the manifest."""
    count = SIZES["shards"]
    objects = [ObjectInfo(one.uri, one.num_bytes, one.etag) for one in _shards(count)]
    inspected = [(one, "parquet", Inspection(SHARD_ROWS, ("text",))) for one in objects]
    meter.seconds()
    Corpus.from_inspections(inspected).publish(str(folder / "corpus"))
    return {
        "seconds_per_shard": meter.seconds() / count,
        "memory_bytes_per_shard": meter.peak_bytes / count,
        "manifest_bytes_per_shard": _size(folder / "corpus") / count,
    }


def measure_manifest(meter: Meter, folder: Path) -> Numbers:
    """Measure an opened manifest and its digest, in a process that did not write it."""
    corpus = Corpus.open(str(folder))
    assert corpus.corpus_id
    count = len(corpus.shards)
    return {
        "seconds_per_shard": meter.seconds() / count,
        "memory_bytes_per_shard": meter.peak_bytes / count,
    }


def measure_plan(meter: Meter, folder: Path) -> Numbers:
    """Measure a scoring plan with one span for each shard."""
    from noop_task import NoOp

    from pipeline.scoring.scoring_plan import freeze_plan
    from pipeline.scoring.span_task import Measurement
    from trainers.checkpoint import Checkpoint
    from trainers.settings import ScoringSettings

    corpus = Corpus.open(str(folder))
    opened = Checkpoint(
        url=str(folder / "checkpoints/initial"), step=0, weights_digest="0" * 32, files={}
    )
    assert corpus.corpus_id
    measurement = Measurement(str(folder), NoOp(), {}, opened, ScoringSettings())
    meter = Meter()
    plan = freeze_plan(LossCatalog(str(folder)), measurement, round_number=1)
    count = len(plan.tasks)
    assert count == len(corpus.shards)
    return {
        "seconds_per_span": meter.seconds() / count,
        "memory_bytes_per_span": meter.peak_bytes / count,
        "plan_bytes_per_span": _size(folder / "losses/plans") / count,
    }


def measure_snapshot(meter: Meter, folder: Path) -> Numbers:
    """Measure what publishing a round takes, with parts of 200 shards."""
    catalog = LossCatalog(str(folder), carry={})
    count, random = len(catalog.corpus.shards), np.random.default_rng(0)
    meter = Meter()
    parts = []
    for first in range(0, count, 200):
        name = _digest(str(first))
        losses = tuple(
            ShardLosses(first + k, name, k, SHARD_ROWS, SHARD_ROWS, *random.random(3).tolist())
            for k in range(min(200, count - first))
        )
        parts.append(PartSummary(name, (), losses, BatchSplits()))
    meter.seconds()
    catalog.publish(1, parts, provenance={})
    seconds, memory = meter.seconds(), meter.peak_bytes
    scan = catalog.scan(1)
    assert len(scan.files) == len(parts)
    return {
        "seconds_per_shard": seconds / count,
        "memory_bytes_per_shard": memory / count,
        "read_seconds_per_shard": meter.seconds() / count,
        "snapshot_bytes_per_shard": _size(folder / "losses/snapshots") / count,
    }


def measure_parts(meter: Meter, folder: Path) -> Numbers:
    """Measure span files, a part made of them, and passes over it: statuses and digest."""
    count, random = SIZES["rows"], np.random.default_rng(0)
    num_shards = count // SHARD_ROWS
    _write_corpus(folder, num_shards)
    catalog = LossCatalog(str(folder))
    meter.seconds()
    for shard_id in range(num_shards):
        catalog.write_span(f"{shard_id:032x}", _losses(shard_id, random))
    written = meter.seconds()
    spans = [f"{shard_id:032x}" for shard_id in range(num_shards)]
    span_bytes = _size(folder / "losses/spans")
    part = catalog.compact(spans, round_number=1)
    compacted = meter.seconds()
    catalog.publish(1, [part], provenance={})
    meter.seconds()
    catalog.digest(1)
    one = pl.lit(1, dtype=pl.UInt64)
    statuses = catalog.latest(1).select(schema.STATUS, one.alias("count"))
    statuses.group_by(schema.STATUS).sum().collect(engine="streaming")
    return {
        "span_seconds_per_row": written / count,
        "span_bytes_per_row": span_bytes / count,
        "compact_seconds_per_row": compacted / count,
        "compact_memory_bytes_per_row": meter.peak_bytes / count,
        "part_bytes_per_row": _size(folder / "losses/parts") / count,
        "closing_seconds_per_row": meter.seconds() / count,
    }


def _losses(shard_id: int, random: np.random.Generator) -> pl.DataFrame:
    """Return losses of texts: units differ, and each loss is another float."""
    return pl.DataFrame(
        {
            schema.SHARD_ID: np.full(SHARD_ROWS, shard_id, np.uint32),
            schema.ROW: np.arange(SHARD_ROWS, dtype=np.uint32),
            schema.LOSS: random.gamma(4.0, 0.7, SHARD_ROWS).astype(np.float32),
            schema.NUM_UNITS: random.integers(20, 2048, SHARD_ROWS, dtype=np.uint32),
            schema.STATUS: ["ok"] * SHARD_ROWS,
            schema.MEASURED_STEP: np.full(SHARD_ROWS, 1000, np.uint64),
            schema.ORIGIN: ["scored"] * SHARD_ROWS,
            schema.VISITS: np.zeros(SHARD_ROWS, np.uint16),
        }
    )


def measure_index(meter: Meter, folder: Path) -> Numbers:
    """Measure an index of a share of the rows, and its rows in the memory of a rank."""
    from trainers.streaming.index_rows import Selected

    num_shards = SIZES["index"] // SHARD_ROWS
    corpus = Corpus(tuple(_shards(num_shards)), ("text",))
    url = str(folder / "index.parquet")
    provenance = {"corpus_id": corpus.corpus_id}
    index = IndexFile.write(url, _index_chunks(num_shards), provenance=provenance)
    written, meter = meter.seconds(), Meter()
    rows = Selected.of_index(index, corpus)
    assert len(rows) == index.num_samples
    return {
        "index_bytes_per_row": Path(url).stat().st_size / index.num_samples,
        "write_seconds_per_row": written / index.num_samples,
        "open_seconds_per_row": meter.seconds() / index.num_samples,
        "rank_memory_bytes_per_row": meter.peak_bytes / index.num_samples,
    }


def _index_chunks(num_shards: int) -> Iterator[pl.DataFrame]:
    random = np.random.default_rng(0)
    for shard_id in range(num_shards):
        rows = np.flatnonzero(random.random(SHARD_ROWS) < RATIO)
        yield pl.DataFrame(
            {"shard_id": shard_id, "row": rows, "weight": 1.0, "probability": RATIO},
            schema=dict(schema.INDEX),
        )


def measure_candidates(meter: Meter, folder: Path) -> Numbers:
    """Measure a draw from 10^5 shards, and writing it."""
    count = SIZES["candidates"]
    walk = CandidateWalk(np.full(SIZES["shards"], SHARD_ROWS), 256, seed=0)
    meter = Meter()
    drawn = walk.draw(count, start=Place())
    rows = pl.DataFrame({"shard_id": drawn.shards, "row": drawn.rows})
    rows = rows.with_columns(weight=pl.lit(1.0), probability=pl.lit(1.0))
    IndexFile.write(str(folder / "candidates.parquet"), rows.lazy(), provenance={})
    return {
        "seconds_per_row": meter.seconds() / count,
        "memory_bytes_per_row": meter.peak_bytes / count,
    }


def measure_inspection(meter: Meter, folder: Path) -> Numbers:
    """Measure the inspection of a Parquet shard with eight columns and 50 row groups."""
    path, count = folder / "shard.parquet", 200
    columns = {f"column{k}": range(SHARD_ROWS) for k in range(8)}
    pl.DataFrame(columns).write_parquet(path, row_group_size=SHARD_ROWS // 50)
    inspect_shard(str(path), "parquet")
    meter.seconds()
    for _ in range(count):
        inspect_shard(str(path), "parquet")
    return {"seconds_per_shard": meter.seconds() / count}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


PARTS: dict[str, Callable[[Meter, Path], Numbers]] = {
    "ingest": measure_ingest,
    "manifest": measure_manifest,
    "plan": measure_plan,
    "snapshot": measure_snapshot,
    "parts": measure_parts,
    "index": measure_index,
    "candidates": measure_candidates,
    "inspection": measure_inspection,
}
# Parts that read the corpus which an earlier process has written.
_OF_A_CORPUS = ("manifest", "plan", "snapshot")


def measure_apart(name: str, shards: int) -> Numbers:
    """Measure a part in a new process."""
    with tempfile.TemporaryDirectory(prefix="attent-scale-") as folder:
        if name in _OF_A_CORPUS:
            _write_corpus(Path(folder), shards)
        command = [sys.executable, __file__, "--one", name, "--folder", folder]
        command += ["--shards", str(shards)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        numbers: Numbers = json.loads(done.stdout.splitlines()[-1])
        return numbers


def main() -> None:
    """Measure the parts and keep earlier results of the others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="Parts, with commas.")
    parser.add_argument("--shards", type=int, default=SIZES["shards"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    SIZES["shards"] = options.shards
    if options.one:
        print(json.dumps(PARTS[options.one](Meter(), options.folder)))
        return
    path = options.results / "scale.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in options.only.split(","):
        report[name] = measure_apart(name, options.shards)
        print(name, json.dumps(report[name]), flush=True)
    report |= {"machine": machine.describe(), "sizes": SIZES}
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
