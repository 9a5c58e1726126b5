"""Kinds of source files by their names: Parquet, JSON, CSV, tar files and images."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from attent_select.errors import InputError
from catalogs.storage.objects import ObjectInfo
from catalogs.tars.compressed import SUFFIXES
from pipeline.corpus.sources import csv_files, image_folders, json_lines

_TARS: Final = (".tar", *SUFFIXES)

_log = logging.getLogger("attent.pipeline.conversion")


def common_kind(objects: Sequence[ObjectInfo], *, sources: Sequence[str]) -> str:
    """Return the kind of the sources, and warn about other files.

    Raises:
        InputError: there are several kinds, or no file can be converted.
    """
    kinds = Counter(kind for stored in objects if (kind := kind_of(stored.url)) is not None)
    if "images" in kinds and any(_is_metadata(stored.url) for stored in objects):
        kinds = Counter({"images": kinds["images"]})
    if len(kinds) != 1:
        mixed = " and ".join(sorted(kinds)) or "none of them"
        raise InputError(
            f"{', '.join(sources)}: expected Parquet files, JSON Lines, CSV or tar files, or a"
            f" folder of images, all of one kind; found {mixed}"
        )
    (kind,) = kinds
    others = Counter(
        _suffix(stored.url)
        for stored in objects
        if kind_of(stored.url) != kind and not (kind == "images" and _is_metadata(stored.url))
    )
    if others:
        names = ", ".join(f"{count} × {suffix}" for suffix, count in sorted(others.items()))
        _log.warning("left out files that cannot be converted: %s", names)
    return kind


def _is_metadata(url: str) -> bool:
    return url.rpartition("/")[2] in image_folders.METADATA


def _suffix(url: str) -> str:
    base = url.rpartition("/")[2]
    return "." + base.rpartition(".")[2].lower() if "." in base else base


def kind_of(url: str) -> str | None:
    """Return the kind of a file by its name, or None if it cannot be converted."""
    if _suffix(url) == ".parquet":
        return "parquet"
    if json_lines.is_json(url):
        return "json"
    if csv_files.is_csv(url):
        return "csv"
    if url.lower().endswith(_TARS):
        return "tar"
    return "images" if image_folders.is_image(url) else None
