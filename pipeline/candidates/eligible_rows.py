"""Eligible rows of a corpus by its annotations and ids: one bit a row.

They are computed once for each condition. A draw reads the bits of the shards that it visits.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import sql_expression
from attent_select.schedule.candidate_walk import Ids, IsEligible
from attent_select.schema import ROW, SHARD_ID
from attent_select.selection.composition import Composition
from catalogs import storage
from catalogs.annotations.columns import AnnotationColumns, loss_columns
from catalogs.corpus import Corpus
from catalogs.layout import Layout
from catalogs.tables import frames, parquet_file
from pipeline.config.canonical_json import canonical_json
from pipeline.runs.state import Run

_BITS = "bits"
_NUM_ELIGIBLE = "num_eligible"
_KINDS: frames.SchemaDict = {SHARD_ID: pl.UInt32, _NUM_ELIGIBLE: pl.UInt32, _BITS: pl.Binary}


def eligible_rows(run: Run) -> IsEligible | None:
    """Return which rows of the corpus may be drawn; None if all may.

    `where` counts if it reads annotations and ids only, and so does `distinct`. What `where` says
    about losses is checked when the candidates have some.
    """
    condition = _Condition.of(run.config.selection.composition, run.config.run)
    if condition is None:
        return None
    annotations = AnnotationColumns.of(run.config.run, condition.columns)
    facts = [run.corpus.corpus_id, condition.where, condition.rank_column, annotations.digests]
    digest = hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:32]
    url = Layout(run.config.run).eligible(digest)
    if storage.info(url) is None:
        chunks = (
            annotations.join(None).run(condition.bits)
            if annotations.annotations
            else map(condition.bits, _ids_of_shards(run.corpus))
        )
        frames.publish_tables(
            url,
            map(frames.to_arrow, chunks),
            schema=frames.arrow_schema(_KINDS),
            notes=lambda: {"corpus_id": run.corpus.corpus_id},
        )
    return partial(_are_eligible, url)


def _ids_of_shards(corpus: Corpus) -> Iterator[pl.LazyFrame]:
    """Yield (shard_id, row) of each shard."""
    for shard in corpus.shards:
        row = pl.int_range(shard.num_samples, dtype=pl.UInt32).alias(ROW)
        yield pl.select(pl.lit(shard.shard_id, pl.UInt32).alias(SHARD_ID), row).lazy()


def _are_eligible(url: str, shards: Ids, rows: Ids) -> npt.NDArray[np.bool_]:
    """Return for each row whether it may be drawn, by the file at `url`."""
    order = np.argsort(shards, kind="stable")
    visited, first = np.unique(shards[order], return_index=True)
    bits = _read_bits(url, visited)
    is_eligible = np.zeros(len(rows), np.bool_)
    for shard, places in zip(visited.tolist(), np.split(order, first[1:]), strict=True):
        is_eligible[places] = bits[shard][rows[places]]
    return is_eligible


def _read_bits(url: str, shards: Ids) -> dict[int, npt.NDArray[np.bool_]]:
    """Return the bits of shards, ascending: only the row groups that have some of them are read."""
    footer, bits_of = frames.footer_of(url), {}
    columns = [SHARD_ID, _BITS]
    for group in range(footer.num_groups):
        bounds = parquet_file.min_and_max(footer, group=group, column=SHARD_ID)
        assert bounds is not None, "we write statistics of ids"
        if np.searchsorted(shards, bounds[0]) == np.searchsorted(shards, bounds[1], "right"):
            continue
        table = parquet_file.read_groups(url, footer=footer, groups=[group], columns=columns)
        for shard, bits in frames.from_arrow(table).iter_rows():
            bits_of[shard] = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.bool_)
    return bits_of


@dataclass(frozen=True)
class _Condition:
    """A condition on annotations and ids."""

    where: str | None
    rank_column: str | None

    @classmethod
    def of(cls, composition: Composition, run: str) -> "_Condition | None":
        where = composition.where
        if where is not None and loss_columns(run, sql_expression.columns_of(where, what="where")):
            where = None
        condition = cls(where, composition.rank_column)
        return condition if condition.columns else None

    @property
    def columns(self) -> tuple[str, ...]:
        names = [] if self.where is None else sql_expression.columns_of(self.where, what="where")
        return (*names, *([] if self.rank_column is None else [self.rank_column]))

    def bits(self, rows: pl.LazyFrame) -> pl.DataFrame:
        """Return the bits of each shard of a chunk, which has whole shards."""
        condition = pl.lit(value=True)
        if self.where is not None:
            schema = rows.collect_schema()
            condition &= sql_expression.condition(self.where, schema, what="where")
        if self.rank_column is not None:
            condition &= pl.col(self.rank_column).fill_null(0) == 0
        marked = rows.select(SHARD_ID, condition.fill_null(value=False).alias(_BITS)).collect()
        shards = [
            (shard[SHARD_ID][0], int(shard[_BITS].sum()), _pack(shard[_BITS]))
            for shard in marked.partition_by(SHARD_ID, maintain_order=True)
        ]
        return pl.DataFrame(shards, schema=_KINDS, orient="row")


def _pack(bits: pl.Series) -> bytes:
    return np.packbits(bits.to_numpy()).tobytes()
