"""The index file: which rows a round trains on, with their weights, and where they came from.

Here: writing it in bounded memory and opening it against its corpus. Not here: choosing the rows
(`attent_select`) or reading their samples (`catalogs/corpus.py`).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import schema
from attent_select.errors import ExistsError, InputError
from catalogs import frames, parquet_file, storage
from catalogs.corpus import Corpus, check_corpus

_ROWS_PER_GROUP = 1 << 18

# Rows u32[n] and weights f32[n] of one shard.
ShardRows = tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class IndexFile:
    """An index at rest. `digest` is of the sorted (shard_id, row) alone."""

    url: str
    num_samples: int
    digest: str
    provenance: dict[str, Any]

    @classmethod
    def write(
        cls,
        url: str,
        selected: pl.LazyFrame,
        *,
        provenance: dict[str, Any],
        overwrite: bool = False,
    ) -> "IndexFile":
        """Stream `selected` (`schema.INDEX`, sorted by shard_id and row) into an index file.

        Raises:
            ExistsError: there is a file at `url` and `overwrite` is not set.
            InputError: a column is missing, or the rows are not sorted or not unique.
        """
        if not overwrite and storage.info(url) is not None:
            raise ExistsError(f"{url} is there already: choose another name or remove it first")
        seen = _Seen()

        def notes() -> frames.Notes:
            return {
                "schema_version": schema.SCHEMA_VERSION,
                "num_samples": seen.num_samples,
                "index_digest": seen.digest.hexdigest(),
                "provenance": provenance,
            }

        frames.publish_tables(
            url,
            (frames.to_arrow(seen.checked(batch)) for batch in _batches(selected)),
            schema=frames.arrow_schema(dict(schema.INDEX)),
            notes=notes,
        )
        return cls(
            storage.normalise(url), seen.num_samples, seen.digest.hexdigest(), dict(provenance)
        )

    @classmethod
    def open(cls, url: str, *, corpus: Corpus | None = None) -> "IndexFile":
        """The index at `url`, checked against `corpus` where one is given.

        Raises:
            MissingError: there is no file at `url`.
            InputError: it is not an index.
            CorpusMismatchError: it was made for another corpus (`provenance["corpus_id"]`).
        """
        notes = frames.notes_of(frames.footer_of(url))
        if "index_digest" not in notes:
            raise InputError(f"{url} is no index file: expected one written by `attent select`")
        if corpus is not None:
            check_corpus(notes["provenance"], corpus=corpus, what=f"the index {url}")
        return cls(
            storage.normalise(url), notes["num_samples"], notes["index_digest"], notes["provenance"]
        )

    def frame(self) -> pl.LazyFrame:
        """The rows (`schema.INDEX`), lazily, in order."""
        return frames.scan([self.url], schema=dict(schema.INDEX))

    def rows_by_shard(self) -> dict[int, ShardRows]:
        """Sorted rows u32[n] and weights f32[n] of every shard that has any, in shard order.

        Eight bytes per selected row: views into two arrays.
        """
        columns = [schema.SHARD_ID, schema.ROW, schema.WEIGHT]
        table = self.frame().select(columns).collect(engine="streaming")
        shards, rows, weights = (table[name].to_numpy() for name in columns)
        # Where another shard begins; the rows are sorted.
        bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
        return {
            int(shards[first]): (rows[first:end], weights[first:end])
            for first, end in itertools.pairwise(bounds)
            if first < end
        }


def rows_of_shard(url: str, shard_id: int) -> npt.NDArray[np.uint32]:
    """The rows of one shard, sorted; of the index at `url` only the row groups with them are read.

    For workers that need one shard of many.
    """
    footer = frames.footer_of(url)
    columns = [schema.SHARD_ID, schema.ROW]
    leaf = footer.schema.names.index(schema.SHARD_ID)
    groups = []
    for group in range(footer.num_groups):
        ids = footer.metadata.row_group(group).column(leaf).statistics
        if ids.min <= shard_id <= ids.max:
            groups.append(group)
    fetched = parquet_file.fetch(url, footer=footer, groups=groups, columns=columns, etag=None)
    found = [
        table[schema.ROW].to_numpy()[table[schema.SHARD_ID].to_numpy() == shard_id]
        for table in parquet_file.decode(
            url, fetched, footer=footer, groups=groups, columns=columns
        )
    ]
    return np.concatenate([np.zeros(0, np.uint32), *found])


class _Seen:
    """Counts, digests and checks rows while they stream by."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.digest = frames.ColumnDigest([schema.SHARD_ID, schema.ROW])
        self._last_key = -1

    def checked(self, batch: pl.DataFrame) -> pl.DataFrame:
        keys = batch.select(schema.sample_key().alias("key"))["key"].to_numpy()
        if int(keys[0]) <= self._last_key or np.any(keys[1:] <= keys[:-1]):
            raise InputError(
                "the rows of an index must be sorted by (shard_id, row), each once: sort the"
                " selection, and look for duplicate rows in the loss catalog"
            )
        self._last_key = int(keys[-1])
        self.num_samples += len(batch)
        self.digest.update(batch)
        return batch


def _batches(selected: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    kinds = pl.Schema(schema.INDEX)
    lacking = [name for name in kinds if name not in selected.collect_schema()]
    if lacking:
        raise InputError(f"an index needs the column {lacking[0]!r}: expected {', '.join(kinds)}")
    typed = selected.select(pl.col(name).cast(kind) for name, kind in kinds.items())
    yield from (
        batch
        for batch in typed.collect_batches(
            chunk_size=_ROWS_PER_GROUP, maintain_order=True, engine="streaming"
        )
        if len(batch)
    )
