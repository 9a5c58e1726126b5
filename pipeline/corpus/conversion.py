"""Conversion of Parquet files, JSON Lines or image folders into shards of a chosen size.

One pass in the order of the inputs, with one record batch in memory. Equal inputs give
byte-identical shards, so that an interrupted conversion can be resumed.
"""

import codecs
import collections
import functools
import gzip
import io
import itertools
import json
import logging
import re
import tempfile
import zlib
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
from pipeline.corpus.resharding import reshard

_BATCH_ROWS = 1024
# The formats that tasks read (`trainers/inputs/images.py`).
_IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif"),
)
_JSON_LINES = re.compile(r"\.(jsonl|ndjson)(\.gz|\.zst)?$")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_log = logging.getLogger("attent.pipeline.conversion")


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
    kind = _kind_of(objects, sources=sources)
    plan = {
        "sources": [[source.url, source.num_bytes, source.etag] for source in objects],
        "format": shard_format,
        "shard_samples": shard_samples,
    }
    text = json.dumps(plan, indent=1).encode()
    existing = _existing_shards(to, plan=text)
    inputs = [stored.url for stored in objects if _kind(stored.url) is not None]

    url_of = functools.partial(_shard_url, to, writer.suffixes[0])
    publish = functools.partial(_publish, f"{to}.json", text)
    if kind == shard_format == "parquet":
        urls = reshard(
            inputs,
            url_of=url_of,
            existing=existing,
            shard_samples=shard_samples,
            publish=publish,
        )
    else:
        write = functools.partial(_write, writer=writer, publish=publish)
        urls = _write_all(
            _READERS[kind](inputs),
            url_of=url_of,
            existing=existing,
            shard_samples=shard_samples,
            write=write,
        )
    if not urls:
        raise InputError(f"{', '.join(sources)}: no sample to convert")
    return urls


def _write_all(
    samples: Iterator[Sample],
    *,
    url_of: Callable[[int], str],
    existing: set[str],
    shard_samples: int,
    write: Callable[[str, Iterable[Sample]], None],
) -> list[str]:
    urls: list[str] = []
    while (first := next(samples, None)) is not None:
        shard = itertools.chain([first], itertools.islice(samples, shard_samples - 1))
        urls.append(url_of(len(urls)))
        if urls[-1] in existing:
            collections.deque(shard, maxlen=0)
        else:
            write(urls[-1], shard)
    return urls


def _shard_url(to: str, suffix: str, number: int) -> str:
    return join(to, f"shard-{number:06d}{suffix}")


def _publish(plan_url: str, plan: bytes, url: str, path: Path) -> None:
    """Publish a shard; the plan before the first one."""
    if storage.info(plan_url) is None:
        storage.publish(plan_url, plan)
    storage.publish(url, path)


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


def _write(
    url: str, shard: Iterable[Sample], *, writer: Any, publish: Callable[[str, Path], None]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard")
        try:
            writer.write(path, shard)
        except InputError as error:  # it names the temporary path
            raise InputError(str(error).replace(str(path), url)) from error
        publish(url, path)


def _kind_of(objects: Sequence[ObjectInfo], *, sources: Sequence[str]) -> str:
    """Return the kind of the sources, and warn about other files."""
    kinds = {kind for stored in objects if (kind := _kind(stored.url)) is not None}
    if len(kinds) != 1:
        mixed = " and ".join(sorted(kinds)) or "none of them"
        raise InputError(
            f"{', '.join(sources)}: expected Parquet files, JSON Lines files or a folder of "
            f"images, all of one kind; found {mixed}"
        )
    others = collections.Counter(
        _suffix(stored.url) for stored in objects if _kind(stored.url) is None
    )
    if others:
        names = ", ".join(f"{count} × {suffix}" for suffix, count in sorted(others.items()))
        _log.warning("left out files that cannot be converted: %s", names)
    return kinds.pop()


def _suffix(url: str) -> str:
    base = url.rpartition("/")[2]
    return "." + base.rpartition(".")[2].lower() if "." in base else base


def _kind(url: str) -> str | None:
    suffix = _suffix(url)
    if suffix == ".parquet":
        return "parquet"
    if _JSON_LINES.search(url.lower()):
        return "jsonl"
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
        with storage.local_copy(url) as path, _open_lines(path, url) as lines:
            try:
                for number, line in enumerate(lines, start=1):
                    text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                    if text.strip():
                        yield _json_object(text, where=f"{url}, line {number}")
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{url} cannot be read: {error}. It may be truncated") from error


def _open_lines(path: Path, url: str) -> Any:
    if url.lower().endswith(".gz"):
        return gzip.open(path)
    if url.lower().endswith(".zst"):
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _json_object(line: bytes, *, where: str) -> Sample:
    try:
        value: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deep
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    # Half of a surrogate pair, from a text cut in the middle of an emoji, has no UTF-8.
    if _SURROGATE.search(line):
        cleaned: Sample = _without_surrogates(value)
        if cleaned != value:
            _log.warning("%s: replaced half of a surrogate pair by U+FFFD", where)
        return cleaned
    return value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


def _images(urls: Sequence[str]) -> Iterator[Sample]:
    classes = sorted({_class_name(url) for url in urls})
    labels = {name: label for label, name in enumerate(classes)}
    for url in urls:
        name = _class_name(url)
        yield {"image": storage.read(url), "label": labels[name], "class_name": name}


def _class_name(url: str) -> str:
    return url.split("/")[-2]


_READERS: dict[str, Callable[[Sequence[str]], Iterator[Sample]]] = {
    "parquet": _parquet,
    "jsonl": _json_lines,
    "images": _images,
}
