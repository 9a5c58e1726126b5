"""Makes shards of a wished size from Parquet files, JSON Lines or a folder of images.

Here: reading foreign files sample by sample and cutting the stream into shards. Not here: how a
shard is written (`catalogs/formats/`) or the manifest (`ingest.py`). One pass, in the order of the
inputs, one record batch in memory; equal inputs give byte-identical shards.
"""

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from attent_select.errors import ExistsError, InputError
from attent_select.plugins import load, names
from catalogs import storage
from catalogs.layout import join
from catalogs.shard_format import Sample

_BATCH_ROWS = 1024
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def convert(sources: Sequence[str], *, to: str, shard_format: str, shard_samples: int) -> list[str]:
    """Writes `to/shard-000000.…`, … of `shard_samples` samples each; returns their URLs.

    `sources` are URLs, folders or globs of Parquet files, of JSON Lines (`.jsonl`), or folders
    with one subfolder of images per class (columns `image`, `label`, `class_name`; labels are
    numbered in the order of the names).

    Raises:
        InputError: a source cannot be read, kinds of sources are mixed, or there is no sample.
        ExistsError: `to` holds objects already.
    """
    if shard_samples < 1:
        raise InputError(f"--shard-samples: {shard_samples} is not a positive number of samples")
    if storage.list_objects(to):
        raise ExistsError(f"{to} has files already: choose another --out, or delete them")
    writer = load("catalogs.formats", shard_format)()
    samples = iter(_samples(sources))
    urls: list[str] = []
    while (first := next(samples, None)) is not None:
        rest = itertools.islice(samples, shard_samples - 1)
        url = join(to, f"shard-{len(urls):06d}{writer.suffixes[0]}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "shard")
            writer.write(path, itertools.chain([first], rest))
            storage.publish(url, path)
        urls.append(url)
    if not urls:
        raise InputError(f"{', '.join(sources)}: there is no sample to convert")
    return urls


def formats() -> list[str]:
    """The names of the shard formats that `convert` can write."""
    return names("catalogs.formats")


def _samples(sources: Sequence[str]) -> Iterator[Sample]:
    objects = [found.url for found in storage.expand(sources)]
    kinds = {_kind(url) for url in objects} - {None}
    if len(kinds) != 1:
        found = " and ".join(sorted(kind for kind in kinds if kind)) or "none of them"
        raise InputError(
            f"{', '.join(sources)}: expected Parquet files, JSON Lines files or a folder of "
            f"images, one of the three; found {found}"
        )
    reader = _READERS[kinds.pop()]
    return reader([url for url in objects if _kind(url) is not None])


def _kind(url: str) -> str | None:
    suffix = "." + url.rpartition(".")[2].lower()
    if suffix in (".parquet", ".jsonl"):
        return suffix[1:]
    return "images" if suffix in _IMAGE_SUFFIXES else None


def _parquet(urls: Sequence[str]) -> Iterator[Sample]:
    for url in urls:
        with storage.local_copy(url) as path, pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()


def _json_lines(urls: Sequence[str]) -> Iterator[Sample]:
    for url in urls:
        with storage.local_copy(url) as path, path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_object(line, where=f"{url}, line {number}")


def _json_object(line: str, *, where: str) -> Sample:
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def _images(urls: Sequence[str]) -> Iterator[Sample]:
    classes = sorted({_class_name(url) for url in urls})
    labels = {name: label for label, name in enumerate(classes)}
    for url in urls:
        name = _class_name(url)
        yield {"image": storage.read(url), "label": labels[name], "class_name": name}


def _class_name(url: str) -> str:
    return url.split("/")[-2]


_READERS: dict[str | None, Callable[[Sequence[str]], Iterator[Sample]]] = {
    "parquet": _parquet,
    "jsonl": _json_lines,
    "images": _images,
}
