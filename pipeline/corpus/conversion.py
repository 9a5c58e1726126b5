"""Conversion of Parquet files, JSON Lines or image folders into shards of a chosen size.

One pass in the order of the inputs, with one record batch in memory. Equal inputs give
byte-identical shards, so that an interrupted conversion can be resumed.
"""

import collections
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attent_select.errors import ExistsError, InputError
from attent_select.plugins import load_plugin, plugin_names
from catalogs import storage
from catalogs.layout import join
from catalogs.shard_format import Sample
from catalogs.storage.objects import ObjectInfo

_BATCH_ROWS = 1024
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def convert(sources: Sequence[str], *, to: str, shard_format: str, shard_samples: int) -> list[str]:
    """Write `to/shard-000000.…`, … of `shard_samples` samples each, and return their URLs.

    `sources` are URLs, folders or globs of Parquet files, of JSON Lines (`.jsonl`), or folders
    with one subfolder of images per class (columns `image`, `label`, `class_name`; labels are
    numbered in the order of the names).

    The same call resumes after an interruption: existing shards are not written again.

    Raises:
        InputError: a source cannot be read, kinds of sources are mixed, or there is no sample.
        ExistsError: `to` has shards of another conversion.
    """
    if shard_samples < 1:
        raise InputError(f"--shard-samples: {shard_samples} is not a positive number of samples")
    writer = load_plugin("catalogs.formats", shard_format)()
    objects = storage.expand(sources)
    samples = iter(_samples(objects, sources=sources))
    plan = {
        "sources": [[source.url, source.num_bytes, source.etag] for source in objects],
        "format": shard_format,
        "shard_samples": shard_samples,
    }
    text = json.dumps(plan, indent=1).encode()
    existing = _existing_shards(to, plan=text)
    urls: list[str] = []
    while (first := next(samples, None)) is not None:
        shard = itertools.chain([first], itertools.islice(samples, shard_samples - 1))
        urls.append(join(to, f"shard-{len(urls):06d}{writer.suffixes[0]}"))
        if urls[-1] in existing:
            collections.deque(shard, maxlen=0)
        else:
            _write(urls[-1], shard, writer=writer, plan=(f"{to}.json", text))
    if not urls:
        raise InputError(f"{', '.join(sources)}: no sample to convert")
    return urls


def formats() -> list[str]:
    """Return the names of the shard formats that `convert` can write."""
    return plugin_names("catalogs.formats")


def _existing_shards(to: str, *, plan: bytes) -> set[str]:
    """Return the URLs of existing shards. Their plan is beside them."""
    url = f"{to}.json"
    existing = {stored.url for stored in storage.list_objects(to)}
    is_planned = storage.info(url) is not None
    if (existing or is_planned) and (not is_planned or storage.read(url) != plan):
        raise ExistsError(
            f"{to} has shards that were made from other sources or settings: choose another --out, "
            f"or delete them and {url}"
        )
    return existing


def _write(url: str, shard: Iterable[Sample], *, writer: Any, plan: tuple[str, bytes]) -> None:
    """Publish a shard; the plan (URL and content) before the first one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard")
        writer.write(path, shard)
        if storage.info(plan[0]) is None:
            storage.publish(*plan)
        storage.publish(url, path)


def _samples(objects: Sequence[ObjectInfo], *, sources: Sequence[str]) -> Iterator[Sample]:
    urls = [stored.url for stored in objects]
    kinds = {_kind(url) for url in urls} - {None}
    if len(kinds) != 1:
        mixed = " and ".join(sorted(kind for kind in kinds if kind)) or "none of them"
        raise InputError(
            f"{', '.join(sources)}: expected Parquet files, JSON Lines files or a folder of "
            f"images, all of one kind; found {mixed}"
        )
    reader = _READERS[kinds.pop()]
    return reader([url for url in urls if _kind(url) is not None])


def _kind(url: str) -> str | None:
    suffix = "." + url.rpartition(".")[2].lower()
    if suffix in (".parquet", ".jsonl"):
        return suffix[1:]
    return "images" if suffix in _IMAGE_SUFFIXES else None


def _parquet(urls: Sequence[str]) -> Iterator[Sample]:
    for url in urls:
        with storage.local_copy(url) as path:
            yield from _rows(path, url=url)


def _rows(path: Path, *, url: str) -> Iterator[Sample]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text is not UTF-8
        raise InputError(f"{url}: not a readable Parquet file: {error}") from error


def _json_lines(urls: Sequence[str]) -> Iterator[Sample]:
    for url in urls:
        with storage.local_copy(url) as path, path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_object(line, where=f"{url}, line {number}")


def _json_object(line: bytes, *, where: str) -> Sample:
    try:
        value: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deep
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
