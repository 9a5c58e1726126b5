"""Losses of other programs: tables with any column names, matched to the samples of a corpus.

A sample is named by `shard_id` and `row`, by an id column that the corpus has, too, or without a
corpus by its position in the files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS, ROW, SAMPLE_ID, SHARD_ID
from catalogs import Corpus
from catalogs.concurrency import ordered_map
from catalogs.shard_format import Shard
from catalogs.tables import frames
from catalogs.tables.scan import Scan

_ROWS_PER_READ = 1 << 16


@dataclass(frozen=True)
class OwnColumns:
    """Columns of the files: `sample_id` and `loss` (default: `loss`), and the corpus to match."""

    sample_id: str | None = None
    loss: str | None = None
    corpus: Corpus | None = None

    def __bool__(self) -> bool:
        return any(each is not None for each in (self.sample_id, self.loss, self.corpus))


def read_losses(files: Sequence[str], kinds: frames.SchemaDict, own: OwnColumns) -> pl.LazyFrame:
    """Return the rows of `files` with shard_id, row, `loss`, and the ids as SAMPLE_ID.

    `kinds` are the columns that all files have. The rows are matched to the corpus, if there is
    one, in memory.

    Raises:
        InputError: a column is missing, an id is missing or occurs twice, or the corpus lacks a
            sample.
    """
    for name in (own.sample_id, own.loss):
        if name is not None and name not in kinds:
            raise InputError(f"{files[0]} has no column {name!r}: it has {', '.join(kinds)}")
    if own.loss is not None and own.loss != LOSS:
        kinds = {name: kind for name, kind in kinds.items() if name != LOSS}
    has_rows = {SHARD_ID, ROW} <= kinds.keys()
    if not has_rows and own.sample_id is None:
        raise InputError(
            f"{files[0]} has no columns shard_id and row: name the column with the ids of the"
            " samples with --id"
        )
    frame = Scan.of(files, schema=kinds).frame() if has_rows else _number_rows(files, kinds)
    if own.loss is not None:
        frame = frame.rename({own.loss: LOSS})
    if own.sample_id is not None:
        frame = frame.with_columns(pl.col(own.sample_id).alias(SAMPLE_ID))
        _check_ids(frame, own.sample_id)
    if own.corpus is None:
        return frame
    if not has_rows:
        assert own.sample_id is not None
        return _match_rows(frame.drop(SHARD_ID, ROW), own.corpus, own.sample_id).lazy()
    _check_rows(frame, own.corpus)
    return frame


def _number_rows(files: Sequence[str], kinds: frames.SchemaDict) -> pl.LazyFrame:
    """Return the rows with the position of their file as shard_id, and in it as row."""
    return pl.concat(
        Scan.of([url], schema=kinds)
        .frame()
        .with_row_index(ROW)
        .with_columns(
            pl.lit(position, pl.UInt32).alias(SHARD_ID), pl.col(ROW).cast(pl.UInt32).alias(ROW)
        )
        for position, url in enumerate(files)
    )


def _check_ids(frame: pl.LazyFrame, name: str) -> None:
    ids = frame.select(SAMPLE_ID)
    if ids.select(pl.col(SAMPLE_ID).is_null().any()).collect().item():
        raise InputError(f"--id {name}: a row has no id, expected one for every row")
    counts = ids.group_by(SAMPLE_ID).len().filter(pl.col("len") > 1)
    twice = counts.sort(SAMPLE_ID).head(1).collect()
    if len(twice):
        raise InputError(
            f"--id {name}: {twice[SAMPLE_ID][0]!r} occurs twice: expected every id once"
        )


def _check_rows(frame: pl.LazyFrame, corpus: Corpus) -> None:
    """Check that the corpus has all rows."""
    rows = frame.select(SHARD_ID, ROW).drop_nulls()
    last = rows.group_by(SHARD_ID).agg(pl.col(ROW).max()).sort(SHARD_ID).collect()
    for shard_id, row in last.rows():
        num_samples = corpus.shard(shard_id).num_samples
        if row >= num_samples:
            raise InputError(
                f"the corpus has no row {row} in shard {shard_id}, which has {num_samples} samples:"
                " the losses are of another corpus"
            )


def _match_rows(losses: pl.LazyFrame, corpus: Corpus, name: str) -> pl.DataFrame:
    """Return the losses with the shard_id and row of the sample that has their id."""
    known = pl.concat(_ids_of(corpus, name))
    rows = losses.collect()
    if (kind := rows.schema[SAMPLE_ID]) != known.schema[SAMPLE_ID]:
        raise InputError(
            f"--id {name}: the column is {kind} in the losses and {known.schema[SAMPLE_ID]} in the"
            " corpus, expected the same type"
        )
    if twice := known.filter(pl.col(SAMPLE_ID).is_duplicated())[SAMPLE_ID].head(1).to_list():
        raise InputError(f"--id {name}: {twice[0]!r} occurs twice in the corpus")
    missing = rows.join(known, on=SAMPLE_ID, how="anti")
    if len(missing):
        raise InputError(
            f"--id {name}: the corpus lacks {len(missing)} of the ids, such as"
            f" {missing[SAMPLE_ID][0]!r}. Losses of another corpus?"
        )
    return known.join(rows, on=SAMPLE_ID).sort(SHARD_ID, ROW)


def _ids_of(corpus: Corpus, name: str) -> Iterator[pl.DataFrame]:
    if name not in corpus.columns:
        raise InputError(
            f"--id {name}: the corpus has no such column, it has {', '.join(corpus.columns)}"
        )

    def read(shard: Shard) -> pl.DataFrame:
        ids = []
        for first in range(0, shard.num_samples, _ROWS_PER_READ):
            rows = range(first, min(first + _ROWS_PER_READ, shard.num_samples))
            ids += corpus.read(shard.shard_id, rows=rows, columns=[name]).values[name]
        shard_ids = pl.lit(shard.shard_id, pl.UInt32).alias(SHARD_ID)
        return (
            pl.DataFrame({SAMPLE_ID: ids})
            .with_row_index(ROW)
            .select(shard_ids, pl.col(ROW).cast(pl.UInt32), SAMPLE_ID)
        )

    yield from ordered_map(read, corpus.shards, num_threads=8)
