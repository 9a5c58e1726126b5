"""Conversion against bare copies of the same files: pyarrow for Parquet, `tarfile` for tar files.

    .venv/bin/python benchmarks/ingest.py [--scale 1.0]

Prints the processor seconds of all threads (the best of three) and their ratio, and writes them to
benchmarks/results/ingest.json. The bare copy writes what it reads; a conversion also counts rows,
finds types and writes row groups of at most 1024 rows; then its shards are ingested.
"""

import argparse
import io
import json
import resource
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs import Corpus, storage
from catalogs.shards import inspect_shard
from pipeline.corpus.conversion import Conversion, convert

RESULTS = Path(__file__).parent / "results" / "ingest.json"
_REPEATS = 3
_FILES = 2


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="Size of the files.")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results: dict[str, object] = {"scale": arguments.scale, "machine": machine.describe()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parquet(folder / "parquet", num_rows=round(40_000 * arguments.scale))
        write_tars(folder / "webdataset", num_samples=round(2_000 * arguments.scale))
        for kind, copy in (("parquet", copy_parquet), ("webdataset", copy_tars)):
            bare = best(copy, folder / kind)
            ours = best(partial(convert_and_ingest, kind=kind), folder / kind)
            results[kind] = {"bare_seconds": bare, "seconds": ours, "ratio": ours / bare}
            print(f"{kind}: bare copy {bare:.2f} s, ours {ours:.2f} s, {ours / bare:.2f} ×")
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")


def convert_and_ingest(source: Path, out: Path, *, kind: str) -> None:
    """Write shards of the files of `source`, and the manifest of their corpus."""
    urls = convert([str(source)], to=str(out), settings=Conversion(kind, shard_samples=20_000))
    corpus = Corpus.from_inspections(
        (stored, kind, inspect_shard(stored.url, kind)) for stored in storage.expand(urls)
    )
    corpus.publish(str(out.parent / "corpus"))


def best(work: Callable[[Path, Path], object], source: Path) -> float:
    """Return the processor seconds of the best repetition, each from and into a new folder."""
    seconds = []
    for _ in range(_REPEATS):
        with tempfile.TemporaryDirectory(dir=source.parent) as folder:
            # A process remembers what it has found in a file.
            files = shutil.copytree(source, Path(folder, "source"))
            started = processor_seconds()
            work(files, Path(folder, "shards"))
            seconds.append(processor_seconds() - started)
    return min(seconds)


def processor_seconds() -> float:
    """Return the seconds that this process and its finished children have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def write_parquet(folder: Path, *, num_rows: int) -> None:
    """Write files of texts, numbers and scores."""
    folder.mkdir()
    random = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(5000)])
    for number in range(_FILES):
        texts = [" ".join(words[random.integers(0, 5000, 60)]) for _ in range(num_rows)]
        columns = {"text": texts, "id": range(num_rows), "score": random.random(num_rows)}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")


def write_tars(folder: Path, *, num_samples: int) -> None:
    """Write tar files of samples of 20 kB with a class."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(_FILES):
        with tarfile.open(folder / f"{number}.tar", "w") as archive:
            for sample in range(num_samples):
                for ext, data in (("jpg", random.bytes(20_000)), ("cls", b"3")):
                    member = tarfile.TarInfo(f"{sample:06d}.{ext}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def copy_parquet(source: Path, out: Path) -> None:
    """Read and write each file with pyarrow."""
    out.mkdir()
    for path in sorted(source.iterdir()):
        pq.write_table(pq.read_table(path), out / path.name, compression="zstd")


def copy_tars(source: Path, out: Path) -> None:
    """Read and write each member with `tarfile`."""
    out.mkdir()
    for path in sorted(source.iterdir()):
        with tarfile.open(path) as read, tarfile.open(out / path.name, "w") as written:
            for member in read:
                written.addfile(member, read.extractfile(member))


if __name__ == "__main__":
    main()
