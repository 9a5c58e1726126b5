"""Reading a small, scattered share of a corpus: formats and sizes of row groups.

Streams 1 % and 10 % of 20 kB images, which are not decoded, and of 28 × 28 PNGs, which are, from
Parquet in row groups of several sizes and from Lance, on disk and on S3 at 20 ms; and with
`datasets` (`select`, Pillow) from disk. Each measurement is a process with empty caches, on one
processor, in turns. Bytes on disk are those of read calls (of `datasets`, which maps files into
memory, they are unknown), on S3 those that the server sent. Writes results/scattered.json.

    python benchmarks/scattered.py [--quick]
"""

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]
RESULT = HERE / "results" / "scattered.json"

# Method → format and rows of a row group.
LAYOUTS: dict[str, tuple[str, int | None]] = {
    "parquet": ("parquet", None),
    "parquet-100": ("parquet", 100),
    "parquet-10": ("parquet", 10),
    "lance": ("lance", None),
}
PEER = "datasets"
SAMPLES = {"large": 20_000, "png": 60_000}
QUICK_SAMPLES = {"large": 300, "png": 1000}
PLACES = ("local", "s3, 20 ms")
SHARD_SAMPLES = 10_000
BATCH_SIZE = 256
LATENCY_SECONDS = 0.02


@dataclass(frozen=True)
class Request:
    """One measurement: `url` has the corpus of the method, `ids` the chosen rows of all shards."""

    method: str
    kind: str
    url: str
    ids: str
    cpu: int


def main() -> None:
    options = arguments()
    if options.one:
        print(json.dumps(measure(Request(**json.loads(options.one)))))
        return
    from machine import describe

    counts = QUICK_SAMPLES if options.quick else SAMPLES
    samples = {kind: counts[kind] for kind in options.kinds.split(",")}
    places = PLACES[:1] if options.quick else PLACES
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="attent-scattered-") as folder:
        bucket = Path(folder, "bucket")
        sizes = {kind: write_corpora(bucket, kind, count) for kind, count in samples.items()}
        rows = measure_all(Path(folder), sizes, places, options.repeats)
    if options.add:
        rows = [*json.loads(options.result.read_text())["results"], *rows]
    report = {"machine": describe(), "samples": counts, "results": rows}
    options.result.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows))


def samples_of(kind: str, count: int) -> Iterator[dict[str, Any]]:
    """Noise of about 20 kB; or digits, enlarged to 28 × 28 and encoded as PNG."""
    from PIL import Image
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    pixels, labels = load_digits(return_X_y=True)
    for number in range(count):
        if kind == "large":
            yield {"image": rng.bytes(int(rng.integers(14_000, 26_000))), "label": number % 10}
            continue
        file, which = io.BytesIO(), number % len(labels)
        small = Image.fromarray((pixels[which].reshape(8, 8) * 15).astype(np.uint8))
        enlarged = np.asarray(small.resize((28, 28), Image.Resampling.BICUBIC))
        noisy = enlarged // 4 * 4 + (rng.integers(0, 200, (28, 28)) == 0)
        Image.fromarray(noisy.astype(np.uint8)).save(file, "PNG")
        yield {"image": file.getvalue(), "label": int(labels[which])}


def write_corpora(folder: Path, kind: str, count: int) -> np.ndarray:
    """Write the samples in every layout, and as a data set of `datasets`; return their sizes."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.corpus.conversion import convert

    folder.mkdir(exist_ok=True)
    source = folder.parent / f"{kind}.parquet"
    table = pa.Table.from_pylist(list(samples_of(kind, count)))
    pq.write_table(table, source, row_group_size=1000)
    for method, (shard_format, group_rows) in LAYOUTS.items():
        convert(
            [str(source)],
            to=f"{folder}/{kind}/{method}",
            shard_format=shard_format,
            shard_samples=SHARD_SAMPLES,
            row_group_samples=group_rows,
        )
    for path in folder.rglob("shard-*"):
        os.utime(path, (0, 0))  # rclone truncates times in some answers, and makes etags of them
    datasets.Dataset(table).save_to_disk(f"{folder}/{kind}/{PEER}")
    source.unlink()
    return np.array([len(image) for image in table["image"].to_pylist()])


def ingest(shards: str, manifest: Path, kind: str) -> str:
    from catalogs import Corpus, storage
    from catalogs.shards import inspect_shard

    files = storage.expand([f"{shards}/*.{kind}"])
    inspections = [(each, kind, inspect_shard(each.url, kind)) for each in files]
    Corpus.from_inspections(inspections).save(str(manifest))
    return str(manifest)


def measure_all(
    folder: Path, sizes: dict[str, np.ndarray], places: Sequence[str], repeats: int
) -> list[dict[str, Any]]:
    from slow_s3 import slow_s3

    results = []
    with slow_s3(folder, cpus=[0]) as server:
        os.environ.update(server.environment)
        for kind, sizes_of in sizes.items():
            count = len(sizes_of)
            for share in (0.01, 0.1):
                chosen = np.random.default_rng(0).choice(count, round(count * share), replace=False)
                path = folder / f"{kind}-{share}.npy"
                np.save(path, np.sort(chosen))
                np.save(folder / f"{kind}-{share}-sizes.npy", sizes_of)
                for place in places:
                    root = f"{folder}/bucket" if place == "local" else "s3://bucket"
                    requests = [
                        Request(
                            name,
                            kind,
                            ingest(
                                f"{root}/{kind}/{name}", folder / place / kind / name, layout[0]
                            ),
                            str(path),
                            1,
                        )
                        for name, layout in LAYOUTS.items()
                    ]
                    if place == "local":
                        requests.append(Request(PEER, kind, f"{root}/{kind}/{PEER}", str(path), 1))
                    server.latency_seconds = LATENCY_SECONDS
                    cell = {"kind": kind, "share": share, "place": place}
                    results += compare(cell, requests, server, repeats)
                    server.latency_seconds = 0
    return results


def compare(
    cell: dict[str, Any], requests: Sequence[Request], server: Any, repeats: int
) -> list[dict[str, Any]]:
    runs: dict[str, list[dict[str, Any]]] = {request.method: [] for request in requests}
    for _ in range(repeats):
        for request in requests:
            server.reset()
            done = subprocess.run(
                [sys.executable, __file__, "--one", json.dumps(asdict(request))],
                env=os.environ
                | server.environment
                | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.PIPE,
                check=True,
            )
            result = json.loads(done.stdout.splitlines()[-1])
            if request.method == PEER:
                result["bytes_read"] = None
            if cell["place"] != "local":
                result |= {"bytes_read": server.bytes_sent, "num_requests": server.num_requests}
            runs[request.method].append(result)
            print(cell, request.method, result, file=sys.stderr)
    return [cell | {"method": name} | summary(each) for name, each in runs.items()]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians; bytes and requests are those of the last turn."""
    last = runs[-1]
    return {
        "turns": len(runs),
        "cpu_us_per_sample": round(
            1e6 * median(run["cpu_seconds"] / run["samples"] for run in runs), 1
        ),
        "seconds": round(median(run["seconds"] for run in runs), 3),
        "samples": last["samples"],
        "bytes_selected": last["bytes_selected"],
        "bytes_read": last["bytes_read"],
        "read_per_selected": last["bytes_read"]
        and round(last["bytes_read"] / last["bytes_selected"], 2),
        "num_requests": last.get("num_requests"),
        "reported_amplification": last.get("reported_amplification"),
        "digest": last["digest"],
    }


def measure(request: Request) -> dict[str, Any]:
    """Stream the samples in this process; imports are not counted."""
    os.sched_setaffinity(0, [request.cpu % len(os.sched_getaffinity(0))])
    import torch
    from measure import cpu_seconds, io_counts

    torch.set_num_threads(1)
    ids = np.load(request.ids)
    stream = (datasets_batches if request.method == PEER else our_batches)(request, ids)
    next(stream)  # imports, and manifests, which are not part of the peer's work either
    digest = count = 0
    bytes_before = io_counts()[0]
    started, cpu = time.perf_counter(), cpu_seconds()
    for pixels, labels in stream:
        count += len(labels)
        digest += int(pixels.sum(dtype=torch.int64)) + int(labels.sum())
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    return {
        "samples": count,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "bytes_read": io_counts()[0] - bytes_before,
        "bytes_selected": int(np.load(request.ids.replace(".npy", "-sizes.npy"))[ids].sum()),
        "digest": digest,
        "reported_amplification": AMPLIFICATION[-1] if AMPLIFICATION else None,
    }


AMPLIFICATION: list[float] = []


def our_batches(request: Request, ids: np.ndarray) -> Iterator[Any]:
    import polars as pl
    import torch
    from ours import Decoded, DecodedColumns

    from attent_select import schema
    from catalogs import Corpus, IndexFile
    from trainers import OrderSettings, TeachingStream

    @dataclass(frozen=True)
    class Sizes(Decoded):
        """Large images stay encoded."""

        def collate_columns(self, columns: Any) -> tuple[dict[str, Any], dict[int, Any]]:
            sizes = torch.tensor([len(value) for value in columns["image"]])
            return {"array": sizes, "labels": torch.tensor(columns["label"])}, {}

    corpus = Corpus.open(request.url)
    rows = pl.DataFrame({
        schema.SHARD_ID: (ids // SHARD_SAMPLES).astype(np.uint32),
        schema.ROW: (ids % SHARD_SAMPLES).astype(np.uint32),
        schema.WEIGHT: np.ones(len(ids), np.float32),
        schema.PROBABILITY: np.ones(len(ids), np.float32),
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        index = f"{folder}/index.parquet"
        IndexFile.write(index, rows.lazy(), provenance={})
        task = (DecodedColumns if request.kind == "png" else Sizes)(corpus.columns, is_tar=False)
        stream = TeachingStream(
            IndexFile.open(index, corpus=corpus),
            corpus,
            task,
            order=OrderSettings(seed=0, batch_size=BATCH_SIZE),
        )
        if request.method == "lance":
            importlib.import_module("lance.file")
        yield None
        for batch in stream:
            yield batch["array"], batch["labels"]
    AMPLIFICATION.append(round(stream.stats.read_amplification, 3))


def datasets_batches(request: Request, ids: np.ndarray) -> Iterator[Any]:
    import datasets
    import torch
    from samples import collate, decode

    data = datasets.load_from_disk(request.url)
    yield None
    for columns in data.select(ids).iter(BATCH_SIZE):
        images, labels = columns["image"], columns["label"]
        if request.kind == "png":
            yield collate([decode({"image": image}) for image in images], labels)
        else:
            yield torch.tensor([len(image) for image in images]), torch.tensor(labels)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table in Markdown."""
    methods = [*LAYOUTS, PEER]
    lines = [f"| | {' | '.join(methods)} |", f"| --- |{' --- |' * len(methods)}"]
    for kind, share, place in dict.fromkeys((r["kind"], r["share"], r["place"]) for r in rows):
        cells = []
        for method in methods:
            row = next(
                (
                    r
                    for r in rows
                    if (r["kind"], r["share"], r["place"], r["method"])
                    == (kind, share, place, method)
                ),
                None,
            )
            cells.append(cell_of(row) if row else "")
        lines.append(f"| {kind}, {share:.0%}, {place} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell_of(row: dict[str, Any]) -> str:
    read = f"{row['read_per_selected']:.2f} ×, " if row["read_per_selected"] else ""
    return f"{read}{row['cpu_us_per_sample']:.0f} µs"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small corpora, for the tests")
    parser.add_argument("--kinds", default=",".join(SAMPLES), help="of samples")
    parser.add_argument("--add", action="store_true", help="to what the result file has already")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
