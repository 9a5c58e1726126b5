"""Image folders as `datasets` reads them: a folder per class, or `metadata.jsonl` with columns."""

import collections
import csv
import io
import json
import logging
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.file_contents import HEAD_BYTES, check_contents
from catalogs.shard_format import Sample
from catalogs.shard_search import split_of
from catalogs.storage.objects import ObjectInfo
from pipeline.corpus.column_types import Types, column_of, storable_types, types_of

# The formats that tasks read (`trainers/inputs/images.py`).
_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif"),
)
METADATA = ("metadata.jsonl", "metadata.csv")
_FILE_NAME = "file_name"
_IMAGE = "image"
_BATCH_ROWS = 64

_log = logging.getLogger("attent.pipeline.conversion")


@dataclass(frozen=True)
class Images:
    """Some images by URL, and the other columns of each."""

    urls: tuple[str, ...]
    columns: tuple[Sample, ...]

    def __str__(self) -> str:
        return f"images from {self.urls[0]}"

    def tables(self, *, start: int, stop: int, types: Types) -> Iterator[pa.Table]:
        """Yield the images from `start` to `stop` with columns of these types.

        Raises:
            InputError: a file is not an image, such as a pointer of Git LFS.
        """
        for first in range(start, stop, _BATCH_ROWS):
            rows = range(first, min(stop, first + _BATCH_ROWS))
            images = {_IMAGE: pa.array([_read(self.urls[row]) for row in rows], pa.binary())}
            others = [self.columns[row] for row in rows]
            yield pa.table(
                images
                | {
                    name: column_of([row.get(name) for row in others], dtype)
                    for name, dtype in types.items()
                    if name != _IMAGE
                }
            )


def _read(url: str) -> bytes:
    contents = storage.read(url)
    check_contents(contents[:HEAD_BYTES], url)
    return contents


def is_image(url: str) -> bool:
    """Whether a file is an image that tasks read, by its name."""
    return url.lower().endswith(_SUFFIXES)


def images_in(objects: Sequence[ObjectInfo], *, chunk: int) -> tuple[list[Images], Types]:
    """Return the images for training among some files, `chunk` by `chunk`, and their columns.

    With a `metadata.jsonl` or `.csv`, the images that it names (`file_name`) have its columns; else
    they have `label` and `class_name` by their folders, numbered in the order of the names. Of
    folders `train`, `test` and so on, only the first is read.

    Raises:
        InputError: a metadata file is damaged or names an image that does not exist.
    """
    urls = _of_training([stored.url for stored in objects])
    images = [url for url in urls if is_image(url)]
    metadata = [url for url in urls if url.rpartition("/")[2] in METADATA]
    rows = _metadata_rows(metadata, images) if metadata else _class_rows(images)
    types = storable_types(types_of([row for _, row in rows]))
    chunks = [rows[first : first + chunk] for first in range(0, len(rows), chunk)]
    sources = [
        Images(tuple(url for url, _ in part), tuple(row for _, row in part)) for part in chunks
    ]
    return sources, {_IMAGE: pa.binary(), **types}


def _of_training(urls: Sequence[str]) -> list[str]:
    """Return the URLs without those in folders for validation and test."""
    images = [url for url in urls if is_image(url)]
    root = posixpath.commonpath([posixpath.dirname(url) for url in images])
    splits = collections.defaultdict(list)
    for url in urls:
        top = posixpath.relpath(url, root).split("/")[0]
        splits[split_of(top) if "/" in posixpath.relpath(url, root) else None].append(url)
    if not splits["train"]:
        return list(urls)
    for split in ("validation", "test"):
        if left_out := splits[split]:
            _log.warning("left out %d files of the %s split under %s", len(left_out), split, root)
    return splits["train"] + [url for url in splits[None] if not is_image(url)]


def _class_rows(images: Sequence[str]) -> list[tuple[str, Sample]]:
    names = [url.split("/")[-2] for url in images]
    if len(set(names)) == 1 and split_of(names[0]):  # the folder of a split names no class
        return [(url, {}) for url in images]
    labels = {name: label for label, name in enumerate(sorted(set(names)))}
    return [
        (url, {"label": labels[name], "class_name": name})
        for url, name in zip(images, names, strict=True)
    ]


def _metadata_rows(files: Sequence[str], images: Sequence[str]) -> list[tuple[str, Sample]]:
    known, rows = set(images), []
    for file in files:
        folder = posixpath.dirname(file)
        for line, row in _rows_of(file):
            name = row.pop(_FILE_NAME, None)
            url = posixpath.normpath(posixpath.join(folder, str(name)))
            url = url if "://" not in folder else f"{folder}/{name}"
            if url not in known:
                raise InputError(
                    f"{file}, line {line}: {_FILE_NAME} is {name!r}: expected an image below"
                    f" {folder}. Correct the name, or remove the line"
                )
            if clash := {_IMAGE} & row.keys():
                raise InputError(f"{file}, line {line}: rename the column {clash.pop()!r}")
            rows.append((url, row))
    if num_others := len(known - {url for url, _ in rows}):
        _log.warning("left out %d images that %s does not name", num_others, files[0])
    return rows


def _rows_of(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = storage.read(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8: {error}") from error
    if file.endswith(".csv"):
        yield from enumerate(csv.DictReader(io.StringIO(text)), start=2)
        return
    for line, entry in enumerate(text.splitlines(), start=1):
        if entry.strip():
            try:
                row = json.loads(entry)
            except ValueError as error:
                raise InputError(f"{file}, line {line}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{file}, line {line}: expected a JSON object")
            yield line, row
