"""Conversion against bare copies of the same files: pyarrow for Parquet, `tarfile` for tar files.

    .venv/bin/python benchmarks/ingest.py [--scale 1.0]

Prints seconds (the best of three, in one process) and their ratio. The bare copy writes what it
reads; a conversion also counts rows, finds types and writes row groups of at most 1024 rows.
"""

import argparse
import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.conversion import Conversion, convert

_REPEATS = 3
_FILES = 2


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="Size of the files.")
    scale = parser.parse_args().scale
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parquet(folder / "parquet", num_rows=round(40_000 * scale))
        write_tars(folder / "tars", num_samples=round(2_000 * scale))
        for kind, source, copy in (
            ("parquet", folder / "parquet", copy_parquet),
            ("webdataset", folder / "tars", copy_tars),
        ):
            bare = best(lambda out, copy=copy, source=source: copy(source, out), folder)
            ours = best(
                lambda out, kind=kind, source=source: convert(
                    [str(source)], to=str(out), settings=Conversion(kind, shard_samples=20_000)
                ),
                folder,
            )
            print(f"{kind}: bare copy {bare:.2f} s, conversion {ours:.2f} s, {ours / bare:.2f} ×")


def best(work: Callable[[Path], object], folder: Path) -> float:
    """Return the seconds of the fastest repetition, each into a new folder."""
    seconds = []
    for _ in range(_REPEATS):
        with tempfile.TemporaryDirectory(dir=folder) as out:
            started = perf_counter()
            work(Path(out, "shards"))
            seconds.append(perf_counter() - started)
    return min(seconds)


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
