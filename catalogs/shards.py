"""Shards of any format: which format a file has, and inspecting, reading and writing it."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from attent_select import plugins, schema
from attent_select.errors import InputError
from catalogs import storage
from catalogs.file_contents import HEAD_BYTES, check_contents
from catalogs.read_plan import ReadPlan
from catalogs.shard_format import Inspection, Reading, Sample, Shard, ShardFormat
from catalogs.tables import frames

_FORMATS = "catalogs.formats"


def format_of(url: str) -> str:
    """Return the shard format for a URL's suffix. Raises `InputError` for an unknown suffix."""
    formats: dict[str, str] = {}
    for name in plugins.plugin_names(_FORMATS):
        formats.update((suffix, name) for suffix in format_named(name).suffixes)
    # Without the query of a web address.
    path = url.partition("?")[0] if url.startswith(("http://", "https://")) else url
    for suffix, name in formats.items():
        if path.lower().endswith(suffix):
            return name
    raise InputError(
        f"{url} is not a shard: expected a name that ends in {' or '.join(sorted(formats))}."
        " Convert other files with `attent ingest --convert`"
    )


def inspect_shard(url: str, format_name: str, *, members_url: str | None = None) -> Inspection:
    """Inspect one shard in the caller's process.

    With `members_url`, the member index (if the format keeps one) is published there instead of
    returned, so that a driver never holds the indexes of all shards.

    Raises:
        InputError: the shard is damaged, or a file of another kind.
    """
    try:
        inspection = format_named(format_name).inspect(url)
    except InputError:
        _check_kind(url)
        raise
    if inspection.members is None or members_url is None:
        return inspection
    save_members(members_url, inspection.members)
    return Inspection(inspection.num_samples, inspection.columns)


def _check_kind(url: str) -> None:
    stored = storage.info(url)
    num_bytes = min(HEAD_BYTES, stored.num_bytes) if stored is not None else 0
    if num_bytes:
        check_contents(storage.read_ranges(url, [(0, num_bytes)])[0], url)


def keeps_members(format_name: str) -> bool:
    """Whether shards of a format have a member index."""
    return format_named(format_name).keeps_members


def read_shard(shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
    """Read samples of one shard without its corpus (on Dask workers); see `ShardFormat.read`."""
    return format_named(shard.format).read(shard, rows=rows, columns=columns)


def plan_shard(shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
    """Plan the requests for samples of one shard; see `ShardFormat.plan`."""
    return format_named(shard.format).plan(shard, rows=rows, columns=columns)


def write_shard(path: Path, samples: Iterable[Sample], *, format_name: str) -> None:
    """Write a local shard; see `ShardFormat.write`."""
    format_named(format_name).write(path, samples)


def save_members(url: str, members: pa.Table) -> None:
    """Publish a member index (`schema.MEMBERS`)."""
    notes = {"schema_version": schema.SCHEMA_VERSION}
    frames.publish_tables(url, [members], schema=members.schema, notes=lambda: notes)


@functools.cache
def format_named(name: str) -> ShardFormat:
    """Return the format of that name. Raises `InputError` if there is none."""
    plugin = plugins.load_plugin(_FORMATS, name, methods=("inspect", "read", "plan", "write"))
    return cast(ShardFormat, plugin())
