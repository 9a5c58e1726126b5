"""Shards of an opened manifest: columns in memory, from which a `Shard` is made when it is used.

10^5 objects with their strings take several times the memory of the columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import polars as pl

from attent_select import schema
from attent_select.html_cards import card, shard_bars
from catalogs.layout import CorpusLayout
from catalogs.shard_format import Shard

# Shards that an iteration makes at a time.
_CHUNK_SHARDS = 1 << 10


@dataclass(frozen=True, eq=False)
class ShardTable(Sequence[Shard]):
    """The shards of a manifest in order; a slice is a table without a copy.

    Attributes:
        manifest: one row per shard, `schema.MANIFEST`.
        layout: where the member indexes of the corpus are.
        with_members: formats whose shards have a member index.
    """

    manifest: pl.DataFrame
    layout: CorpusLayout
    with_members: frozenset[str]

    def __len__(self) -> int:
        return self.manifest.height

    @overload
    def __getitem__(self, key: int) -> Shard: ...

    @overload
    def __getitem__(self, key: slice) -> "ShardTable": ...

    def __getitem__(self, key: int | slice) -> "Shard | ShardTable":
        if isinstance(key, slice):
            return ShardTable(self.manifest[key], self.layout, self.with_members)
        return self._shard(*self.manifest.row(key))

    def __iter__(self) -> Iterator[Shard]:
        for rows in self.manifest.iter_slices(_CHUNK_SHARDS):
            for row in rows.rows():
                yield self._shard(*row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def _shard(
        self, shard_id: int, uri: str, kind: str, num_samples: int, num_bytes: int, etag: str
    ) -> Shard:
        members = self.layout.members(shard_id) if kind in self.with_members else None
        return Shard(shard_id, uri, kind, num_samples, num_bytes, etag, members)


def manifest_of_shards(shards: Sequence[Shard]) -> pl.DataFrame:
    """Return one row per shard, `schema.MANIFEST`."""
    if isinstance(shards, ShardTable):
        return shards.manifest
    columns = {name: [getattr(shard, name) for shard in shards] for name in schema.MANIFEST}
    return pl.DataFrame(columns, schema=dict(schema.MANIFEST))


def corpus_card(shards: Sequence[Shard], *, folder: str, columns: Sequence[str]) -> str:
    """Return a corpus as HTML, with its samples by shard."""
    manifest = manifest_of_shards(shards)
    num_samples = manifest["num_samples"].cast(pl.Int64)
    facts = {
        "folder": folder or None,
        "shards": len(manifest),
        "samples": num_samples.sum(),
        "MB": int(manifest["num_bytes"].sum()) / 1e6,
        "format": manifest["format"].unique().sort().to_list(),
        "columns": columns,
    }
    plot = shard_bars(
        range(len(manifest)), num_samples, num_shards=len(manifest), caption="samples by shard"
    )
    return card("Corpus", facts, plot=plot)
