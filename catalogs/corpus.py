"""Corpus: the manifest of its shards, and access to samples by shard and row."""

import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from catalogs.layout import CorpusLayout, Layout
from catalogs.shard_format import CorpusVersion, Inspection, Reading, Shard
from catalogs.shard_table import ShardTable, corpus_card, manifest_of_shards
from catalogs.shards import format_named, read_shard, save_members
from catalogs.shards import inspect_shard as inspect_shard  # noqa: PLC0414 - its public place
from catalogs.storage.objects import ObjectInfo, check_etag
from catalogs.tables import frames

# Note in a run's copy of a manifest: the folder of the shared corpus.
_SHARED = "shared"
# Note in a manifest: [uri, etag, reason] of each shard that was left out.
_SKIPPED = "skipped"
# Column of a mixture's manifest, and the note that it is there.
_NAME = "name"
# Shards in a row group of a manifest.
_MANIFEST_ROWS = 1 << 11
# Note in a manifest: [corpus_id, num_shards] of each earlier version.
_VERSIONS = "versions"
# Reason for leaving out a shard without samples.
EMPTY = "no samples"


@dataclass(frozen=True)
class SkippedShard:
    """A shard that was found but is not in the corpus: `EMPTY`, or why it cannot be read."""

    uri: str
    etag: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Set of shards, immutable once ingested. `columns` are those that every shard has.

    `folder` is where its member indexes and annotations are; empty until it is saved and opened.
    `skipped` are the shards that ingestion left out. `versions` are the earlier ones, oldest first:
    a new version has all shards of those before it, with the same ids, and more.
    """

    shards: Sequence[Shard]
    columns: tuple[str, ...]
    folder: str = field(default="", compare=False)
    skipped: tuple[SkippedShard, ...] = field(default=(), repr=False, compare=False)
    versions: tuple[CorpusVersion, ...] = field(default=(), repr=False, compare=False)
    # Of a mixture, the name of each shard's part.
    names: tuple[str, ...] = field(default=(), repr=False, compare=False)
    # Member indexes that `save` writes, by shard id.
    unsaved_members: Mapping[int, pa.Table] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_inspections(
        cls,
        inspected: Iterable[tuple[ObjectInfo, str, Inspection]],
        *,
        skipped: Iterable[SkippedShard] = (),
    ) -> "Corpus":
        """Make a corpus of shards `(object, format, inspection)`; ids follow their order.

        Shards without samples are skipped, like those in `skipped`.

        Raises:
            InputError: no shard has a sample, a shard is duplicate, or the shards have no column in
                common.
        """
        shards: list[Shard] = []
        columns, members, left_out = None, {}, list(skipped)
        for stored, kind, inspection in inspected:
            if not inspection.num_samples:
                left_out.append(SkippedShard(stored.url, stored.etag, EMPTY))
                continue
            shard_id = len(shards)
            shards.append(_shard(shard_id, stored, kind, inspection))
            known = inspection.columns if columns is None else columns
            columns = tuple(name for name in known if name in inspection.columns)
            if inspection.members is not None:
                members[shard_id] = inspection.members
        if columns is None:
            hint = f" ({left_out[0].uri}: {left_out[0].reason})" if left_out else ""
            raise InputError(
                "a corpus needs at least one shard with samples: expected Parquet files or tar"
                f" files, {len(left_out)} shards are empty or damaged{hint}"
            )
        if not columns:
            raise InputError("the shards have no column in common: ingest them into separate runs")
        _check_unique(shards)
        return cls(tuple(shards), columns, skipped=tuple(left_out), unsaved_members=members)

    def append(self, added: "Corpus") -> "Corpus":
        """Return the next version: the shards of `added` get the ids after those of this one.

        Raises:
            InputError: a shard is in both.
        """
        first = len(self.shards)
        later = (replace(shard, shard_id=first + shard.shard_id) for shard in added.shards)
        shards = (*self.shards, *later)
        _check_unique(shards)
        added_uris = {shard.uri for shard in added.shards}
        before = (each for each in self.skipped if each.uri not in added_uris)
        return replace(
            self,
            shards=shards,
            skipped=(*before, *added.skipped),
            versions=(*self.versions, CorpusVersion(self.corpus_id, first)),
            names=(*self.names, *added.names),
        )

    def num_shards_of(self, corpus_id: object) -> int | None:
        """Return the number of shards of this version or an earlier one; None for other corpora.

        What was made for an earlier version holds for the same rows of this one.
        """
        known = {version.corpus_id: version.num_shards for version in self.versions}
        return (known | {self.corpus_id: len(self.shards)}).get(str(corpus_id))

    @classmethod
    def open(cls, url: str) -> "Corpus":
        """Open the corpus in a folder with `manifest.parquet` or `corpus/manifest.parquet` (a run).

        Raises:
            MissingError: it was not ingested.
            InputError: the manifest names a shard format that this process has not imported.
        """
        layout, etag = manifest_of(url)
        return _open(layout, etag)

    def save(self, run: str) -> None:
        """Write the corpus of a run: its member indexes, then the manifest, which commits them."""
        self.publish(Layout(storage.normalise(run)).corpus.folder)

    def publish(self, folder: str) -> None:
        """Write a corpus that stands on its own: its member indexes, then `folder`/manifest."""
        layout = CorpusLayout(storage.normalise(folder))
        for shard_id, table in self.unsaved_members.items():
            save_members(layout.members(shard_id), table)
        self._publish_manifest(layout, {})

    def share_with(self, run: str) -> None:
        """Make an opened corpus that of `run`, which gets a copy of the manifest."""
        self._publish_manifest(Layout(storage.normalise(run)).corpus, {_SHARED: self.folder})

    def _publish_manifest(self, layout: CorpusLayout, notes: frames.Notes) -> None:
        notes = notes | {
            "schema_version": schema.SCHEMA_VERSION,
            "corpus_id": self.corpus_id,
            "columns": list(self.columns),
            **({_NAME: True} if self.names else {}),
        }
        if self.versions:
            notes |= {_VERSIONS: [[each.corpus_id, each.num_shards] for each in self.versions]}
        if self.skipped:
            notes |= {_SKIPPED: [[each.uri, each.etag, each.reason] for each in self.skipped]}
        # A row group at a time: plain Python values take several times the memory of a manifest.
        tables = (frames.to_arrow(rows) for rows in self._manifest_pieces())
        empty = frames.to_arrow(self._manifest_of(slice(0, 0)))
        frames.publish_tables(layout.manifest, tables, schema=empty.schema, notes=lambda: notes)

    def manifest(self) -> pl.DataFrame:
        """Return one row per shard, `schema.MANIFEST`; of a mixture with the column `name`."""
        return pl.concat(self._manifest_pieces())

    def _manifest_pieces(self) -> Iterator[pl.DataFrame]:
        for first in range(0, max(1, len(self.shards)), _MANIFEST_ROWS):
            yield self._manifest_of(slice(first, first + _MANIFEST_ROWS))

    def _manifest_of(self, part: slice) -> pl.DataFrame:
        frame = manifest_of_shards(self.shards[part])
        if not self.names:
            return frame
        return frame.with_columns(pl.Series(_NAME, self.names[part], dtype=pl.String))

    @functools.cached_property
    def corpus_id(self) -> str:
        """Digest of every shard's URI, sample count, size and etag."""
        digest = hashlib.blake2b(digest_size=16)
        for shard in self.shards:
            facts = [shard.uri, shard.num_samples, shard.num_bytes, shard.etag]
            digest.update(json.dumps(facts).encode() + b"\n")
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Corpus({len(self.shards)} shards, {self.num_samples} samples, {self.folder!r})"

    def _repr_html_(self) -> str:
        return corpus_card(self.shards, folder=self.folder, columns=self.columns)

    @functools.cached_property
    def shard_rows(self) -> npt.NDArray[np.int64]:
        """Number of samples of every shard, int64[shards]."""
        counts = (shard.num_samples for shard in self.shards)
        return np.fromiter(counts, np.int64, count=len(self.shards))

    @functools.cached_property
    def num_samples(self) -> int:
        return int(self.shard_rows.sum())

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)

    def shard(self, shard_id: int) -> Shard:
        """Return the shard with that id. Raises `InputError` if there is none."""
        if not 0 <= shard_id < len(self.shards):
            raise InputError(
                f"unknown shard {shard_id}: the corpus has shards 0 to {len(self.shards) - 1}. Was"
                " the index made for another corpus?"
            )
        return self.shards[shard_id]

    def read(self, shard_id: int, *, rows: Sequence[int], columns: Sequence[str]) -> Reading:
        """Read samples of one shard; see `ShardFormat.read`."""
        return read_shard(self.shard(shard_id), rows=rows, columns=columns)

    def row_groups(self) -> npt.NDArray[np.uint64]:
        """Return the sample_key (u64) of the first row of every row group, ascending.

        Raises:
            InputError: the shards' format has no row groups, or a shard is damaged.
        """
        self.check_row_groups()  # before thousands of footers are read

        def first_keys(shard: Shard) -> npt.NDArray[np.uint64]:
            rows = np.array(format_named(shard.format).row_groups(shard), np.uint64)
            return rows + (np.uint64(shard.shard_id) << np.uint64(32))

        return np.concatenate(list(ordered_map(first_keys, self.shards, num_threads=16)))

    def check_row_groups(self) -> None:
        """Raise `InputError` if the shards' format has no row groups."""
        for shard in {shard.format: shard for shard in self.shards}.values():
            format_named(shard.format).row_groups(shard)

    def rows(self) -> pl.LazyFrame:
        """Return every (shard_id u32, row u32) in order, lazily, in bounded memory."""
        kinds = {schema.SHARD_ID: pl.UInt32, schema.ROW: pl.UInt32}

        def source(
            columns: list[str] | None, where: pl.Expr | None, limit: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            names = list(kinds) if columns is None else columns
            batches = (
                batch.select(names) for batch in frames.row_batches(self.shard_rows.tolist())
            )
            return frames.filter_and_limit(batches, where=where, limit=limit)

        return register_io_source(source, schema=cast(frames.SchemaDict, kinds))

    def shard_without(self, column: str) -> Shard | None:
        """Return the first shard that lacks `column`, or None; inspects them in order."""
        for shard in self.shards:
            if column not in format_named(shard.format).inspect(shard.uri).columns:
                return shard
        return None

    def verify(self, shard: Shard) -> None:
        """Check that a shard is still the object that was ingested.

        Raises:
            MissingError: it was deleted.
            CorpusMismatchError: its etag or size has changed.
        """
        stored = storage.info(shard.uri)
        if stored is None:
            raise MissingError(
                f"shard {shard.shard_id} was not found: {shard.uri} was deleted after ingestion"
            )
        check_etag(shard.uri, actual=stored.etag, expected=shard.etag)
        if stored.num_bytes != shard.num_bytes:
            raise CorpusMismatchError(
                f"{shard.uri} has changed since it was ingested: it has {stored.num_bytes} bytes,"
                f" expected {shard.num_bytes}. Ingest it into a new run"
            )


def has_corpus(url: str) -> bool:
    """Whether `Corpus.open` finds a manifest in a folder."""
    return any(storage.info(layout.manifest) is not None for layout in _layouts(url))


def foreign_formats(url: str) -> list[str]:
    """Return the shard formats of the corpus in a folder that are classes of other packages."""
    if not has_corpus(url):
        return []
    formats = frames.read_frame(manifest_of(url)[0].manifest, schema={"format": pl.String})[0]
    return list(filter(plugins.is_dotted, formats.to_series().unique().sort()))


def _check_formats(manifest_rows: pl.DataFrame, *, manifest: str) -> None:
    """Check that a manifest names no code that this process has not imported already."""
    for name in manifest_rows["format"].unique().sort():
        if plugins.is_dotted(name) and name.rpartition(".")[0] not in sys.modules:
            raise InputError(
                f"{manifest} names the shard format {name}, which would execute code: add"
                " --trust-run if you trust its author, or import its module in your program"
            )


def _layouts(url: str) -> tuple[CorpusLayout, CorpusLayout]:
    folder = storage.normalise(url)
    return Layout(folder).corpus, CorpusLayout(folder)


def manifest_of(url: str) -> tuple[CorpusLayout, str]:
    """Return where the manifest of the corpus in a folder is, and its etag."""
    for layout in _layouts(url):
        if (stored := storage.info(layout.manifest)) is not None:
            return layout, stored.etag
    urls = " and ".join(layout.manifest for layout in _layouts(url))
    raise MissingError(f"{url} has no corpus ({urls} were not found): run `attent ingest` first")


@functools.lru_cache(maxsize=4)
def _open(layout: CorpusLayout, _: str) -> Corpus:
    """Return the corpus; every step of a run opens it, and it may have 10^5 shards."""
    frame, notes = frames.read_frame(layout.manifest, schema=dict(schema.MANIFEST))
    _check_formats(frame, manifest=layout.manifest)
    if "columns" not in notes:
        raise InputError(f"{layout.manifest} was not written by `attent ingest`: ingest again")
    names = _names(layout, notes)
    layout = CorpusLayout(notes.get(_SHARED, layout.folder))
    kinds = (kind for kind in frame["format"].unique() if format_named(kind).keeps_members)
    shards = ShardTable(frame, layout, frozenset(kinds))
    skipped = tuple(SkippedShard(*facts) for facts in notes.get(_SKIPPED, ()))
    return Corpus(
        shards,
        tuple(notes["columns"]),
        folder=layout.folder,
        skipped=skipped,
        versions=tuple(CorpusVersion(*facts) for facts in notes.get(_VERSIONS, ())),
        names=names,
    )


def _names(layout: CorpusLayout, notes: frames.Notes) -> tuple[str, ...]:
    if _NAME not in notes:
        return ()
    return tuple(frames.read_frame(layout.manifest, schema={_NAME: pl.String})[0][_NAME])


def check_corpus(notes: Mapping[str, object], *, corpus: Corpus, what: str) -> None:
    """Raise `CorpusMismatchError` unless the notes of the file `what` name this corpus, or an
    earlier version of it.
    """
    corpus_id = notes.get("corpus_id")
    if corpus.num_shards_of(corpus_id) is not None:
        return
    counts = {"num_shards": len(corpus.shards), "num_samples": corpus.num_samples}
    differences = [
        f"{name} was {notes[name]}, is {count}"
        for name, count in counts.items()
        if notes.get(name, count) != count
    ]
    reason = "; ".join(differences) or "the URI, size or etag of a shard differs"
    raise CorpusMismatchError(
        f"{what} was made from corpus {corpus_id}, but this is corpus {corpus.corpus_id}"
        f" ({reason}). Use the run in which it was made, or make it again"
    )


def _shard(shard_id: int, stored: ObjectInfo, kind: str, inspection: Inspection) -> Shard:
    return Shard(
        shard_id=shard_id,
        uri=stored.url,
        format=kind,
        num_samples=inspection.num_samples,
        num_bytes=stored.num_bytes,
        etag=stored.etag,
    )


def _check_unique(shards: Sequence[Shard]) -> None:
    uris: set[str] = set()
    for shard in shards:
        if shard.uri in uris:
            raise InputError(f"duplicate shard {shard.uri}: expected every shard once")
        uris.add(shard.uri)
