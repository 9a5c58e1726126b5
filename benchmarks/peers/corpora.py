"""Corpora of benchmarks/streaming.py in the format of every method, with their selected samples."""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from PIL import Image
from samples import COLUMNS, MEMBERS

from attent_select import plugins, schema
from catalogs import Corpus, IndexFile, storage
from catalogs.shards import inspect_shard

HERE = Path(__file__).parent
# Method → its environment (None: attent-select) and the writer of its format, if any.
METHODS: dict[str, tuple[str | None, str | None]] = {
    "ours": (None, None),
    "ours, Pillow": (None, None),
    "ours, tars": (None, None),
    "torch map-style": ("parquet", None),
    "datasets, select": ("datasets", "arrow"),
    "datasets, filter": ("datasets", None),
    "litdata": ("litdata", "litdata"),
    "mosaicml streaming": ("mosaicml", "mds"),
    "webdataset": ("webdataset", None),
}
OURS = [name for name, (environment, _) in METHODS.items() if environment is None]


OFFLINE = {
    "OMP_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "PYTHONPATH": str(HERE.parents[1]),
}


@dataclass(frozen=True)
class Cell:
    """What is streamed, and from where; `latency_ms` is None for the local disk."""

    kind: str
    latency_ms: int | None
    share: float
    layout: str

    @property
    def place(self) -> str:
        return "local" if self.latency_ms is None else f"s3, {self.latency_ms} ms"


@dataclass(frozen=True)
class Prepared:
    """A corpus at rest in every method's format, under `folder`/`kind`."""

    kind: str
    folder: Path
    num_samples: int
    shard_samples: int
    num_distinct: int  # shards; the others repeat them
    payload_bytes: float

    def url(self, cell: Cell) -> str:
        return str(self.folder / self.kind) if cell.latency_ms is None else f"s3://{self.kind}"

    def index(self, cell: Cell) -> str:
        """Write the ids of the selected samples as npz and as an index file."""
        path = self.folder / f"{self.kind}-{cell.share}-{cell.layout}.npz"
        if not path.exists():
            ids = self._select(cell)
            rows = pl.DataFrame({
                schema.SHARD_ID: (ids // self.shard_samples).astype(np.uint32),
                schema.ROW: (ids % self.shard_samples).astype(np.uint32),
                schema.WEIGHT: np.ones(len(ids), np.float32),
                schema.PROBABILITY: np.ones(len(ids), np.float32),
            })  # fmt: skip
            IndexFile.write(str(path.with_suffix(".parquet")), rows.lazy(), provenance={})
            np.savez(path, ids=ids)
        return str(path)

    def _select(self, cell: Cell) -> np.ndarray:
        rng = np.random.default_rng(0)
        if cell.layout == "scattered":
            count = round(self.num_samples * cell.share)
            return np.sort(rng.choice(self.num_samples, count, replace=False))
        num_shards = self.num_samples // self.shard_samples
        shards = np.sort(rng.choice(num_shards, max(round(num_shards * cell.share), 1), False))
        return (shards[:, None] * self.shard_samples + np.arange(self.shard_samples)).ravel()


def source_samples(kind: str, source: Path | None, options: Any) -> list[dict[str, Any]]:
    if source is not None:
        samples = pq.read_table(source, columns=list(COLUMNS[kind])).to_pylist()
        return _documents(samples, options.document_bytes) if kind == "text" else samples
    from pipeline.demo.data import digits

    return [sample | {"image": _resize(sample["image"])} for sample in digits(seed=0)[0]]


def _resize(image: bytes) -> bytes:
    """The image at the size that `samples.decode` promises."""
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).resize((28, 28)).save(file, "PNG")
    return file.getvalue()


def _documents(samples: list[dict[str, Any]], num_bytes: int) -> list[dict[str, Any]]:
    """The texts, joined in order until each document has at least `num_bytes`."""
    documents, parts, size = [], [], 0
    for sample in samples:
        parts.append(sample["text"])
        size += len(sample["text"].encode())
        if size >= num_bytes:
            documents.append({"text": "\n".join(parts)})
            parts, size = [], 0
    return documents


def prepare(kind: str, source: Path | None, options: argparse.Namespace) -> Prepared:
    """Write the corpus if missing: shards of the source, repeated until it is long enough."""
    known = source_samples(kind, source, options)
    shard_samples = min(10_000, max(options.samples // 100, 1), len(known))
    sizes = [len(sample.get("image") or sample["text"].encode()) for sample in known]
    exts = {column: ext for ext, column in MEMBERS.items()}
    members = [{exts[name]: value for name, value in sample.items()} for sample in known]
    starts = range(0, len(known) - shard_samples + 1, shard_samples)
    num_shards = options.samples // shard_samples
    for name, fmt, samples in (("parquet", "parquet", known), ("tar", "webdataset", members)):
        target = options.folder / kind / name
        if target.exists():
            continue
        unfinished = target.with_name(f"{name}-unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        paths = [unfinished / f"{number:06d}.{name}" for number in range(num_shards)]
        writer = plugins.load_plugin("catalogs.formats", fmt)()
        for path, first in zip(paths, starts, strict=False):
            writer.write(path, samples[first : first + shard_samples])
        for number, path in enumerate(paths[len(starts) :]):
            shutil.copyfile(paths[number], path)
        for path in paths:
            # Whole seconds: without hashes rclone makes etags of modification times, and truncates
            # them in some answers.
            os.utime(path, (0, 0))
        unfinished.rename(target)
    num_samples = num_shards * shard_samples
    distinct = min(len(starts), num_shards)
    return Prepared(
        kind, options.folder, num_samples, shard_samples, distinct, float(np.mean(sizes))
    )


def prepare_peers(corpus: Prepared, options: argparse.Namespace) -> None:
    """Write the formats that only peers use."""
    for method in options.methods:
        environment, own = METHODS[method]
        if own is None or (folder := corpus.folder / corpus.kind / own).exists():
            continue
        tars = corpus.folder / corpus.kind / "tar"
        with tempfile.TemporaryDirectory(dir=corpus.folder) as distinct:
            for path in sorted(tars.glob("*.tar"))[: corpus.num_distinct]:
                Path(distinct, path.name).symlink_to(path)
            sizes = [str(corpus.shard_samples), str(corpus.num_samples)]
            command = [python_of(environment, options), str(HERE / "measure.py"), "--write", own]
            done = subprocess.run(
                [*command, distinct, str(folder), *sizes],
                env=os.environ | OFFLINE,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise SystemExit(f"{method} could not write its format:\n{done.stderr[-3000:]}")


def ingest(url: str) -> None:
    """Write the manifests of our two formats with the URLs from which shards are read."""
    place = "s3" if url.startswith("s3://") else "local"
    for name, fmt in (("parquet", "parquet"), ("tar", "webdataset")):
        if storage.info(f"{url}/{place}-{name}/corpus/manifest.parquet") is not None:
            continue
        files = storage.expand([f"{url}/{name}/*.{name}"])
        Corpus.from_inspections((each, fmt, inspect_shard(each.url, fmt)) for each in files).save(
            f"{url}/{place}-{name}"
        )


def python_of(environment: str | None, options: argparse.Namespace) -> str:
    return sys.executable if environment is None else f"{options.peers}/{environment}/bin/python"
