"""Conversion of Parquet, JSON, CSV, image folders and tar files into shards of a chosen size.

Two passes over the sources, each on the workers of a cluster if there is one: the first counts rows
and finds the types of columns, the second writes shards. Equal inputs give byte-identical shards,
so that an interrupted conversion can be resumed.
"""

import bisect
import functools
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from attent_select.errors import ExistsError, InputError
from attent_select.plugins import load_plugin, plugin_names
from catalogs import storage
from catalogs.layout import join
from catalogs.shard_search import find_shards, is_dataset
from catalogs.storage.objects import ObjectInfo
from pipeline.cluster import Client, run_tasks
from pipeline.corpus import shard_writing
from pipeline.corpus.column_types import (
    JSON,
    Types,
    common_types,
    parse_types,
    storable_types,
)
from pipeline.corpus.shard_writing import Rows
from pipeline.corpus.sources import (
    csv_files,
    image_folders,
    json_lines,
    parquet_source,
    tar_samples,
)
from pipeline.corpus.sources.kinds import common_kind, kind_of
from pipeline.progress import progress

# Shards of one source that a task writes: it reads the source once for them.
_SHARDS_PER_TASK: Final = 8
_IMAGES_PER_SOURCE: Final = 4096
# Starts the cluster on the first call.
Cluster = Callable[[], Client]

_log = logging.getLogger("attent.pipeline.conversion")


@dataclass(frozen=True)
class Conversion:
    """Settings of a conversion.

    Attributes:
        shard_format: of the new shards.
        shard_samples: samples in each of them.
        row_group_samples: rows in a row group of Parquet; None: at most 1024, and about 8 MiB.
        drop: columns to leave out.
        schema: `NAME=TYPE`, types of columns instead of those that their values have.
    """

    shard_format: str
    shard_samples: int = 10_000
    row_group_samples: int | None = None
    drop: tuple[str, ...] = ()
    schema: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """A file, or some images of a folder."""

    kind: str
    url: str
    images: image_folders.Images | None = None

    def __str__(self) -> str:
        return self.url

    def contents(self) -> tuple[int, Any]:
        """Return the number of rows, and a schema (Parquet) or the types of the columns."""
        num_rows, columns = _CONTENTS[self.kind](self.url)
        return num_rows, columns

    def tables(self, start: int, stop: int, types: Types) -> Iterator[pa.Table]:
        if self.images is not None:
            return self.images.tables(start=start, stop=stop, types=types)
        return _TABLES[self.kind](self.url, start=start, stop=stop, types=types)


_CONTENTS: Final[Mapping[str, Callable[[str], Any]]] = {
    "parquet": parquet_source.contents_of,
    "json": json_lines.contents_of,
    "csv": csv_files.contents_of,
    "tar": tar_samples.contents_of,
}
_TABLES: Final[Mapping[str, Callable[..., Iterator[pa.Table]]]] = {
    "parquet": parquet_source.tables_of,
    "json": json_lines.tables_of,
    "csv": csv_files.tables_of,
    "tar": tar_samples.tables_of,
}


def convert(
    sources: Sequence[str],
    *,
    to: str,
    settings: Conversion | None = None,
    cluster: Cluster | None = None,
    **fields: Any,
) -> list[str]:
    """Write `to/shard-000000.…`, … and return their URLs.

    `sources` are URLs, folders or globs of Parquet files, of JSON Lines or JSON, of CSV or tar
    files, or folders of images (`image_folders`). Without a cluster, this process does all work.
    `fields` are those of `Conversion`, instead of `settings`.

    The same call resumes after an interruption: existing shards are not written again.

    Raises:
        InputError: a source cannot be read, kinds of sources are mixed, or there is no sample.
        ExistsError: `to` has shards of another conversion.
    """
    settings = settings or Conversion(**fields)
    _check_settings(settings)
    suffix = load_plugin("catalogs.formats", settings.shard_format)().suffixes[0]
    objects = _find_sources(sources)
    kind = common_kind(objects, sources=sources)
    plan = {
        "sources": [[source.url, source.num_bytes, source.etag] for source in objects],
        **{name: value for name, value in asdict(settings).items() if value not in (None, ())},
    }
    text = json.dumps(plan, indent=1).encode()
    existing = _existing_shards(to, plan=text)
    inputs, counts, schema = _inspect(objects, kind, cluster, settings)
    num_rows = sum(counts)
    if not num_rows:
        raise InputError(f"{', '.join(sources)}: no sample to convert")
    schema = _apply_settings(schema, settings)
    if storage.info(f"{to}.json") is None:
        storage.publish(f"{to}.json", text)
    sizes = [
        min(settings.shard_samples, num_rows - first)
        for first in range(0, num_rows, settings.shard_samples)
    ]
    urls = [join(to, f"shard-{number:06d}{suffix}") for number in range(len(sizes))]
    shards = [_Shard(url, size) for url, size in zip(urls, sizes, strict=True)]
    tasks = list(_write_tasks(shards, inputs, counts, existing, schema, settings))
    try:
        _write_all(tasks, cluster, num_shards=len(shards))
    except InputError:
        # A value that does not fit now will not fit in another attempt.
        storage.delete_all([f"{to}.json", *urls])
        raise
    return urls


def _find_sources(sources: Sequence[str]) -> list[ObjectInfo]:
    """Return the files that are converted, and others beside them; of a dataset on the hub, those
    of its training split.
    """
    datasets = [url for url in sources if is_dataset(url)]
    others = [url for url in sources if not is_dataset(url)]
    objects = storage.expand(others) if others or not sources else []
    if datasets:
        objects += find_shards(datasets, is_wanted=lambda url: kind_of(url) is not None)
    return sorted({each.url: each for each in objects}.values(), key=lambda each: each.url)


def _write_all(tasks: Sequence["_WriteTask"], cluster: Cluster | None, *, num_shards: int) -> None:
    with progress("converting", total=num_shards, unit="shards") as advance:
        advance(num_shards - sum(len(task.missing) for task in tasks))
        for task, _ in _map(_write, tasks, cluster):
            advance(len(task.missing))


def formats() -> list[str]:
    """Return the names of the shard formats that `convert` can write."""
    return plugin_names("catalogs.formats")


def _check_settings(settings: Conversion) -> None:
    for name in ("shard_samples", "row_group_samples"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: {value} is not a positive number of samples")
    parse_types(settings.schema)


def _inspect(
    objects: Sequence[ObjectInfo], kind: str, cluster: Cluster | None, settings: Conversion
) -> tuple[list[_Source], list[int], pa.Schema]:
    """Return the sources, the number of rows of each, and their columns."""
    if kind == "images":
        images, types = image_folders.images_in(objects, chunk=_IMAGES_PER_SOURCE)
        sources = [_Source("images", part.urls[0], part) for part in images]
        return sources, [len(part.urls) for part in images], pa.schema(list(types.items()))
    sources = [_Source(kind, stored.url) for stored in objects if kind_of(stored.url) == kind]
    with progress("reading types", total=len(sources), unit="files") as advance:
        contents_of: dict[_Source, Any] = {}
        for source, contents in _map(_Source.contents, sources, cluster):
            contents_of[source] = contents
            advance(1)
    counts = [contents_of[source][0] for source in sources]
    if kind == "json":
        _warn_about_wrapped(contents_of)
    if kind == "parquet":
        schemas = [(source.url, contents_of[source][1]) for source in sources]
        return sources, counts, parquet_source.common_schema(schemas)
    every_type = (contents_of[source][1] for source in sources)
    common = csv_files.common_types if kind == "csv" else common_types
    types = storable_types(functools.reduce(common, every_type))
    decided = {*settings.drop, *parse_types(settings.schema)}
    if mixed := [name for name, dtype in types.items() if dtype == JSON and name not in decided]:
        _log.warning(
            "stored as JSON text, because the values have no common type: %s", ", ".join(mixed)
        )
    return sources, counts, pa.schema(list(types.items()))


def _warn_about_wrapped(contents_of: Mapping[_Source, tuple[int, Types]]) -> None:
    """Warn if every file is one object, with a list of objects that may be the samples."""
    wrapped = {
        source.url: name
        for source, (num_rows, types) in contents_of.items()
        for name, dtype in types.items()
        if num_rows == 1 and pa.types.is_list(dtype) and pa.types.is_struct(dtype.value_type)
    }
    if len(wrapped) == len(contents_of):
        url, name = next(iter(wrapped.items()))
        _log.warning(
            "every file is one sample: %s is an object with a list of objects in %r. If these are"
            " the samples, store the list alone (`jq .%s FILE`)",
            url,
            name,
            name,
        )


def _apply_settings(schema: pa.Schema, settings: Conversion) -> pa.Schema:
    """Return the columns without the dropped ones, in the types of the settings."""
    if not schema.names:
        raise InputError("no sample has a column: every object is empty ({})")
    types = parse_types(settings.schema)
    for option, names in (("--drop", settings.drop), ("--schema", tuple(types))):
        if unknown := [name for name in names if name not in schema.names]:
            raise InputError(
                f"{option}: no column {unknown[0]!r}; there are {', '.join(schema.names)}"
            )
    fields = [
        field.with_type(types.get(field.name, field.type))
        for field in schema
        if field.name not in settings.drop
    ]
    if not fields:
        raise InputError("--drop: no column is left")
    return pa.schema(fields, metadata=schema.metadata)


@dataclass(frozen=True)
class _Shard:
    url: str
    num_rows: int


@dataclass(frozen=True)
class _WriteTask:
    """Consecutive shards, those to write among them, and the rows that they consist of."""

    shards: tuple[_Shard, ...]
    missing: frozenset[str]
    pieces: tuple[tuple[_Source, int, int], ...]
    schema: pa.Schema
    settings: Conversion

    def __str__(self) -> str:
        return f"{len(self.shards)} shards from {self.shards[0].url}"


def _write_tasks(
    shards: Sequence[_Shard],
    sources: Sequence[_Source],
    counts: Sequence[int],
    existing: set[str],
    schema: pa.Schema,
    settings: Conversion,
) -> Iterator[_WriteTask]:
    starts = [0, *itertools.accumulate(counts)]
    firsts = [0, *itertools.accumulate(shard.num_rows for shard in shards)]

    def source_of(number: int) -> int:
        return bisect.bisect_right(starts, firsts[number]) - 1

    for _, numbers in itertools.groupby(range(len(shards)), source_of):
        for group in _chunks(list(numbers)):
            missing = [number for number in group if shards[number].url not in existing]
            if not missing:
                continue
            first, end = firsts[missing[0]], firsts[missing[-1] + 1]
            pieces = tuple(
                (source, max(first, start) - start, min(end, start + count) - start)
                for source, start, count in zip(sources, starts, counts, strict=False)
                if start < end and start + count > first
            )
            written = tuple(shards[missing[0] : missing[-1] + 1])
            urls = frozenset(shards[number].url for number in missing)
            yield _WriteTask(written, urls, pieces, schema, settings)


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    for first in range(0, len(numbers), _SHARDS_PER_TASK):
        yield numbers[first : first + _SHARDS_PER_TASK]


def _write(task: _WriteTask) -> None:
    types = {field.name: field.type for field in task.schema}
    tables = (source.tables(start, stop, types) for source, start, stop in task.pieces)
    rows = Rows(itertools.chain.from_iterable(tables), task.schema)
    for shard in task.shards:
        if shard.url not in task.missing:
            rows.skip(shard.num_rows)
            continue
        shard_writing.write_shard(
            shard.url,
            rows,
            num_rows=shard.num_rows,
            shard_format=task.settings.shard_format,
            group_rows=task.settings.row_group_samples,
            schema=task.schema,
        )


def _map(
    function: Callable[[Any], Any], items: Iterable[Any], cluster: Cluster | None
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, result), in any order."""
    if cluster is None:
        yield from ((item, function(item)) for item in items)
    else:
        yield from run_tasks(cluster(), function, items)


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
