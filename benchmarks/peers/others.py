"""Other methods to stream a selected subset: one function each, as its users would write it.

Also writes the formats that only these methods use. None of them shuffles: they deliver samples in
stored order, which is their fastest. Shards without a selected sample are skipped if the method
supports it.
"""

import importlib
import os
import sys
import tarfile
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from itertools import chain, cycle, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from samples import COLUMNS, MEMBERS, batches

# Modules to import before the clock starts.
_IMPORTS = {
    "webdataset": ("webdataset",),
    "mosaicml streaming": ("streaming", "boto3"),
    "litdata": ("litdata", "boto3"),
    "datasets, filter": ("datasets", "s3fs"),
    "datasets, select": ("datasets", "s3fs"),
    "torch map-style": ("pyarrow.parquet", "pyarrow.fs"),
}


def load(method: str) -> None:
    if method == "mosaicml streaming":
        do_without_torchvision()
    for name in _IMPORTS[method]:
        importlib.import_module(name)


def do_without_torchvision() -> None:
    """Replace torchvision, whose wheel may not load with this build of torch; mosaicml streaming
    imports it for data sets that are not used here.
    """
    try:
        importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError):
        name = "torchvision"
        for part in ("", ".datasets", ".transforms", ".transforms.functional"):
            sys.modules[name + part] = module_from_spec(ModuleSpec(name + part, None))
        sys.modules[f"{name}.datasets"].VisionDataset = object  # type: ignore[attr-defined]
        sys.modules[f"{name}.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]


def extra() -> dict[str, float]:
    """No additional figures: these methods count nothing."""
    return {}


def stream(request: Any) -> Iterator[Any]:
    """Batches of the selected samples."""
    ids = np.load(request.index)["ids"]
    if request.method == "torch map-style":
        return torch_map_style(request, ids)
    return batches(_METHODS[request.method](request, ids), request.batch_size)


def webdataset(request: Any, ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """Read every shard that has a selected sample, and skip its other samples."""
    import webdataset as wds

    # Its documentation uses `curl` for web servers; loopback does not require a signature.
    urls = [_http(name) for name in _shards(request, ids, "tar")]
    positions = set(ids.tolist())
    shards = np.unique(ids // request.shard_samples)

    def is_selected(sample: dict[str, Any]) -> bool:
        shard = int(Path(sample["__url__"].split("?")[0]).stem)
        return shard * request.shard_samples + int(sample["__key__"]) in positions

    data = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
    if len(ids) < len(shards) * request.shard_samples:
        data = data.select(is_selected)
    for sample in data:
        yield _of_members({name: sample[name] for name in sample if not name.startswith("__")})


def mosaicml(request: Any, ids: np.ndarray) -> Iterable[dict[str, Any]]:
    """All samples: its own iteration, which downloads ahead. A subset: by index, shard by shard."""
    from streaming import StreamingDataset

    folder = f"{request.url}/mds"
    where = {"remote": folder, "local": request.cache} if _is_s3(request) else {"local": folder}
    data = StreamingDataset(**where, shuffle=False, batch_size=request.batch_size)
    if len(ids) == len(data):
        return iter(data)
    return (data[int(number)] for number in ids)


def litdata(request: Any, ids: np.ndarray) -> Iterable[dict[str, Any]]:
    import litdata
    from litdata.streaming import downloader

    options = {}
    if _is_s3(request):
        # Servers without TLS are not a setting of it.
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001
        options = {"storage_options": {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}}
    data = litdata.StreamingDataset(
        f"{request.url}/litdata", cache_dir=request.cache, shuffle=False, **options
    )
    return data if len(ids) == len(data) else data.subset(ids.tolist())


def datasets_filter(request: Any, ids: np.ndarray) -> Iterable[dict[str, Any]]:
    """A stream over the Parquet files that have a selected sample, filtered by position."""
    import datasets

    files = _shards(request, ids, "parquet")
    shards = np.unique(ids // request.shard_samples)
    # Positions in the stream over these files.
    places = np.searchsorted(shards, ids // request.shard_samples) * request.shard_samples
    positions = set((places + ids % request.shard_samples).tolist())
    data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    if len(ids) < len(shards) * request.shard_samples:
        data = data.filter(
            lambda numbers: [number in positions for number in numbers],
            with_indices=True,
            batched=True,
            input_columns=[],
        )
    return data


def datasets_select(request: Any, ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """Map-style over Arrow files; from S3 it first downloads all of them."""
    import datasets

    data = datasets.load_from_disk(f"{request.url}/arrow")
    for columns in data.select(ids).iter(request.batch_size):
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def torch_map_style(request: Any, ids: np.ndarray) -> Iterator[Any]:
    """A torch Dataset that reads the row groups of a batch; the last one is kept."""
    from torch.utils.data import DataLoader

    data = RowGroups(request.url, request.shard_samples, COLUMNS[request.kind])
    return iter(
        DataLoader(
            data,
            batch_size=request.batch_size,
            sampler=ids.tolist(),
            collate_fn=lambda samples: next(batches(samples, len(samples))),
        )
    )


class RowGroups:
    """Samples of Parquet shards by ordinal."""

    def __init__(self, url: str, shard_samples: int, columns: tuple[str, ...]) -> None:
        from pyarrow import fs

        self._files: Any = fs.LocalFileSystem()
        self._folder = url.removeprefix("s3://")
        if url.startswith("s3://"):
            endpoint = os.environ["AWS_ENDPOINT_URL"]
            self._files = fs.S3FileSystem(endpoint_override=endpoint, scheme="http")
        self._shard_samples, self._columns = shard_samples, list(columns)
        self._shard, self._file, self._starts = -1, None, np.zeros(0, np.int64)
        self._group, self._table = (-1, -1), None

    def __getitems__(self, ids: list[int]) -> list[dict[str, Any]]:
        samples: list[dict[str, Any]] = []
        for shard, numbers in groupby(ids, lambda number: number // self._shard_samples):
            self._open(shard)
            rows = [number % self._shard_samples for number in numbers]
            groups = np.searchsorted(self._starts, rows, side="right") - 1
            for group, pairs in groupby(zip(groups.tolist(), rows, strict=True), lambda p: p[0]):
                table = self._read(shard, group)
                samples += table.take([row - self._starts[group] for _, row in pairs]).to_pylist()
        return samples

    def _open(self, shard: int) -> None:
        import pyarrow.parquet as pq

        if shard == self._shard:
            return
        path = f"{self._folder}/parquet/{shard:06d}.parquet"
        self._shard, self._file = shard, pq.ParquetFile(path, filesystem=self._files)
        meta = self._file.metadata
        sizes = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]

    def _read(self, shard: int, group: int) -> Any:
        if (shard, group) != self._group:
            self._group = (shard, group)
            self._table = self._file.read_row_group(group, self._columns, use_threads=False)
        return self._table


_METHODS = {
    "webdataset": webdataset,
    "mosaicml streaming": mosaicml,
    "litdata": litdata,
    "datasets, filter": datasets_filter,
    "datasets, select": datasets_select,
}


def write(name: str, tars: str, folder: str, shard_samples: str, num_samples: str) -> None:
    """Write `folder` in the format `name`: the samples of a few tars, repeated."""
    method, writer = _WRITERS[name]
    load(method)
    known = list(_samples_of(sorted(Path(tars).glob("*.tar"))))
    writer(islice(cycle(known), int(num_samples)), folder, int(shard_samples))


def _write_mds(samples: Iterator[dict[str, Any]], folder: str, shard_samples: int) -> None:
    from streaming import MDSWriter

    first = next(samples)
    kinds = {"image": "bytes", "label": "int", "text": "str"}
    # Its shards are sized in bytes: about the size of the others.
    size = shard_samples * (len(first.get("image") or first["text"].encode()) + 16)
    with MDSWriter(
        out=folder, columns={name: kinds[name] for name in first}, size_limit=size
    ) as writer:
        for sample in chain([first], samples):
            writer.write(sample)


def _write_litdata(samples: Iterator[dict[str, Any]], folder: str, shard_samples: int) -> None:
    from litdata.streaming import Cache

    cache = Cache(folder, chunk_size=shard_samples)
    for number, sample in enumerate(samples):
        cache[number] = sample
    cache.done()
    cache.merge()


def _write_arrow(_: Iterator[dict[str, Any]], folder: str, __: int) -> None:
    """Write Arrow files from the Parquet files, which have the same samples."""
    import datasets

    files = sorted(str(path) for path in Path(folder).parent.glob("parquet/*.parquet"))
    data = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=f"{folder}-cache"
    )
    data.save_to_disk(folder, num_shards=len(files))


# Format → its method, and what writes it.
_WRITERS = {
    "mds": ("mosaicml streaming", _write_mds),
    "litdata": ("litdata", _write_litdata),
    "arrow": ("datasets, select", _write_arrow),
}


def _samples_of(tars: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in tars:
        with tarfile.open(path) as archive:
            for _, members in groupby(archive, lambda member: member.name.split(".")[0]):
                files = {m.name.split(".")[1]: archive.extractfile(m) for m in members}
                yield _of_members({name: file.read() for name, file in files.items() if file})


def _of_members(members: dict[str, bytes]) -> dict[str, Any]:
    convert = {"image": bytes, "label": int, "text": bytes.decode}
    names = {ext: MEMBERS[ext.partition(".")[0]] for ext in members}
    return {names[ext]: convert[names[ext]](data) for ext, data in members.items()}


def _is_s3(request: Any) -> bool:
    return bool(request.url.startswith("s3://"))


def _shards(request: Any, ids: np.ndarray, kind: str) -> list[str]:
    """The files in the format `kind` that have a selected sample."""
    numbers = np.unique(ids // request.shard_samples).tolist()
    return [f"{request.url}/{kind}/{number:06d}.{kind}" for number in numbers]


def _http(url: str) -> str:
    if not url.startswith("s3://"):
        return url
    return f"pipe:curl -sSf {os.environ['AWS_ENDPOINT_URL']}/{url.removeprefix('s3://')}"
