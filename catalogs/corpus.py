"""The corpus: its manifest, and reading samples by shard and row.

Which shards there are, in which order, and whether they still are what was ingested. Not here:
what is inside a shard (`catalogs/formats/`), finding and inspecting shards in parallel
(`pipeline/corpus/ingest.py`).
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from attent_select import plugins, schema
from attent_select.errors import CorpusMismatchError, InputError, MissingError
from catalogs import storage
from catalogs.concurrency import ordered_map
from catalogs.layout import Layout
from catalogs.read_plan import ReadPlan
from catalogs.shard_format import Inspection, Reading, Sample, Shard, ShardFormat
from catalogs.storage.objects import ObjectInfo, check_etag
from catalogs.tables import frames

_FORMATS = "catalogs.formats"
_ROWS_PER_BATCH = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """A set of shards, immutable once ingested. `columns` are those that every shard has."""

    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    # Member indexes that are not saved yet, by shard id.
    unsaved_members: Mapping[int, pa.Table] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_inspections(cls, found: Iterable[tuple[ObjectInfo, str, Inspection]]) -> "Corpus":
        """A corpus of inspected shards `(object, format, inspection)`; ids follow their order.

        Raises:
            InputError: there are none, one is named twice, one is empty, or they share no column.
        """
        shards, columns, members = [], None, {}
        for shard_id, (stored, kind, inspection) in enumerate(found):
            shards.append(_shard(shard_id, stored, kind, inspection))
            known = inspection.columns if columns is None else columns
            columns = tuple(name for name in known if name in inspection.columns)
            if inspection.members is not None:
                members[shard_id] = inspection.members
        if columns is None:
            raise InputError("a corpus needs at least one shard: expected Parquet files or tars")
        if not columns:
            raise InputError("the shards have no column in common: ingest them into separate runs")
        _check_unique(shards)
        return cls(shards=tuple(shards), columns=columns, unsaved_members=members)

    @classmethod
    def open(cls, run: str) -> "Corpus":
        """The corpus of a run.

        Raises:
            MissingError: it was never ingested.
        """
        layout = Layout(storage.normalise(run))
        try:
            frame, notes = frames.read_frame(layout.manifest, schema=dict(schema.MANIFEST))
        except MissingError as error:
            raise MissingError(
                f"{run} has no corpus ({layout.manifest} was not found): run `attent ingest` first"
            ) from error
        if "columns" not in notes:
            raise InputError(
                f"{layout.manifest} was not written by `attent ingest`: expected its notes in the"
                " footer. Another program may have rewritten it; ingest again"
            )
        shards = tuple(_with_members(Shard(**row), layout) for row in frame.iter_rows(named=True))
        return cls(shards=shards, columns=tuple(notes["columns"]))

    def save(self, run: str) -> None:
        """Write the member indexes, then the manifest that makes them count."""
        layout = Layout(storage.normalise(run))
        for shard_id, table in self.unsaved_members.items():
            save_members(layout.members(shard_id), table)
        rows = [{name: getattr(shard, name) for name in schema.MANIFEST} for shard in self.shards]
        frame = pl.DataFrame(rows, schema=dict(schema.MANIFEST))
        notes = {
            "schema_version": schema.SCHEMA_VERSION,
            "corpus_id": self.corpus_id,
            "columns": list(self.columns),
        }
        frames.publish_frame(layout.manifest, frame, notes=notes)

    @functools.cached_property
    def corpus_id(self) -> str:
        """Digest of every shard's URI, sample count, size and etag."""
        digest = hashlib.blake2b(digest_size=16)
        for shard in self.shards:
            facts = [shard.uri, shard.num_samples, shard.num_bytes, shard.etag]
            digest.update(json.dumps(facts).encode() + b"\n")
        return digest.hexdigest()

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    def shard(self, shard_id: int) -> Shard:
        """The shard with that id. Raises `InputError` if there is none."""
        if not 0 <= shard_id < len(self.shards):
            raise InputError(
                f"no shard {shard_id}: the corpus has shards 0 to {len(self.shards) - 1}. Was the"
                " index made for another corpus?"
            )
        return self.shards[shard_id]

    def read(self, shard_id: int, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Samples of one shard; see `ShardFormat.read`."""
        return read_shard(self.shard(shard_id), rows=rows, columns=columns)

    def row_groups(self) -> npt.NDArray[np.uint64]:
        """The sample_key of the first row of every row group, ascending.

        Raises:
            InputError: the shards' format has none, or a shard is damaged.
        """
        self.check_row_groups()  # before reading thousands of footers in vain

        def first_keys(shard: Shard) -> npt.NDArray[np.uint64]:
            rows = np.array(_format(shard.format).row_groups(shard), np.uint64)
            return rows + (np.uint64(shard.shard_id) << np.uint64(32))

        return np.concatenate(list(ordered_map(first_keys, self.shards, num_threads=16)))

    def check_row_groups(self) -> None:
        """Raises `InputError` where the shards' format has no row groups."""
        for shard in {shard.format: shard for shard in self.shards}.values():
            _format(shard.format).row_groups(shard)

    def rows(self) -> pl.LazyFrame:
        """Every (shard_id u32, row u32) in order, lazily; never all of them in memory."""
        kinds = {schema.SHARD_ID: pl.UInt32, schema.ROW: pl.UInt32}
        counts = [shard.num_samples for shard in self.shards]

        def source(
            columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            names = list(kinds) if columns is None else columns
            batches = (batch.select(names) for batch in _row_batches(counts))
            return frames.filter_and_limit(batches, where=where, limit=limit)

        return register_io_source(source, schema=cast(frames.SchemaDict, kinds))

    def shard_without(self, column: str) -> Shard | None:
        """The first shard that lacks `column`; each is looked through until one is found."""
        for shard in self.shards:
            if column not in _format(shard.format).inspect(shard.uri).columns:
                return shard
        return None

    def verify(self, shard: Shard) -> None:
        """Whether a shard still is the object that was ingested.

        Raises:
            MissingError: it is gone.
            CorpusMismatchError: its etag or size is another.
        """
        found = storage.info(shard.uri)
        if found is None:
            raise MissingError(
                f"shard {shard.shard_id} is gone: {shard.uri} was ingested and is no longer there"
            )
        check_etag(shard.uri, found=found.etag, expected=shard.etag)
        if found.num_bytes != shard.num_bytes:
            raise CorpusMismatchError(
                f"{shard.uri} has changed since it was ingested: it has {found.num_bytes} bytes,"
                f" the corpus says {shard.num_bytes}. Ingest it into a new run"
            )


def format_of(url: str) -> str:
    """The shard format that a URL's suffix means. Raises `InputError` if there is none."""
    known: dict[str, str] = {}
    for name in plugins.plugin_names(_FORMATS):
        known.update((suffix, name) for suffix in _format(name).suffixes)
    # What follows the `?` of a web address is no part of the name.
    path = url.partition("?")[0] if url.startswith(("http://", "https://")) else url
    for suffix, name in known.items():
        if path.lower().endswith(suffix):
            return name
    raise InputError(
        f"{url} is no shard: expected a name that ends in {' or '.join(sorted(known))}."
        " Convert other files with `attent ingest --convert`"
    )


def inspect_shard(url: str, format_name: str, *, members_url: str | None = None) -> Inspection:
    """Look through one shard, where the caller runs.

    With `members_url` the member index (if the format keeps one) is published there and left out of
    the answer, so that a driver never holds the indexes of all shards.
    """
    inspection = _format(format_name).inspect(url)
    if inspection.members is None or members_url is None:
        return inspection
    save_members(members_url, inspection.members)
    return Inspection(inspection.num_samples, inspection.columns)


def read_shard(shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
    """Samples of one shard, for those who hold the shard and not the corpus (Dask workers)."""
    return _format(shard.format).read(shard, rows=rows, columns=columns)


def plan_shard(shard: Shard, *, rows: Sequence[int], columns: Sequence[str]) -> ReadPlan:
    """What reading those samples takes; see `ShardFormat.plan`."""
    return _format(shard.format).plan(shard, rows=rows, columns=columns)


def write_shard(path: Path, samples: Iterable[Sample], *, format_name: str) -> None:
    """Write a local shard; see `ShardFormat.write`."""
    _format(format_name).write(path, samples)


def check_corpus(found: Mapping[str, object], *, corpus: Corpus, what: str) -> None:
    """Raises `CorpusMismatchError` unless the notes `found` of `what` name this corpus."""
    theirs = found.get("corpus_id")
    if theirs == corpus.corpus_id:
        return
    counts = {"num_shards": len(corpus.shards), "num_samples": corpus.num_samples}
    differ = [f"{k} {found[k]} there, {v} here" for k, v in counts.items() if found.get(k, v) != v]
    reason = "; ".join(differ) or "a shard's URI, size or etag is another"
    raise CorpusMismatchError(
        f"{what} was made from corpus {theirs}, this is corpus {corpus.corpus_id} ({reason})."
        " Use the run it was made in, or make it again"
    )


def save_members(url: str, members: pa.Table) -> None:
    """Publish a member index (`schema.MEMBERS`)."""
    notes = {"schema_version": schema.SCHEMA_VERSION}
    frames.publish_tables(url, [members], schema=members.schema, notes=lambda: notes)


@functools.cache
def _format(name: str) -> ShardFormat:
    return cast(ShardFormat, plugins.load_plugin(_FORMATS, name)())


def _shard(shard_id: int, stored: ObjectInfo, kind: str, inspection: Inspection) -> Shard:
    if inspection.num_samples == 0:
        raise InputError(f"{stored.url} has no samples: leave it out")
    return Shard(
        shard_id=shard_id,
        uri=stored.url,
        format=kind,
        num_samples=inspection.num_samples,
        num_bytes=stored.num_bytes,
        etag=stored.etag,
    )


def _with_members(shard: Shard, layout: Layout) -> Shard:
    if not _format(shard.format).keeps_members:
        return shard
    facts = {name: getattr(shard, name) for name in schema.MANIFEST}
    return Shard(**facts, members_uri=layout.members(shard.shard_id))


def _check_unique(shards: Sequence[Shard]) -> None:
    seen: set[str] = set()
    for shard in shards:
        if shard.uri in seen:
            raise InputError(f"{shard.uri} is named twice: expected every shard once")
        seen.add(shard.uri)


def _row_batches(counts: Sequence[int]) -> Iterator[pl.DataFrame]:
    pieces: list[pl.DataFrame] = []
    height = 0
    for shard_id, count in enumerate(counts):
        for first in range(0, count, _ROWS_PER_BATCH):
            rows = pl.int_range(
                first, min(count, first + _ROWS_PER_BATCH), dtype=pl.UInt32, eager=True
            )
            piece = pl.DataFrame({schema.ROW: rows}).select(
                pl.lit(shard_id, dtype=pl.UInt32).alias(schema.SHARD_ID), schema.ROW
            )
            pieces.append(piece)
            height += len(piece)
            if height >= _ROWS_PER_BATCH:
                yield pl.concat(pieces)
                pieces, height = [], 0
    if pieces:
        yield pl.concat(pieces)
