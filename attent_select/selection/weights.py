"""Rows of an index: selected rows with their weights."""

import functools

import polars as pl

from attent_select.schema import INDEX, INDEX_ORIGIN, ORIGIN, PROBABILITY, ROW, SHARD_ID, WEIGHT
from attent_select.selection.chunks import Chunks, MappedChunks
from attent_select.selection.composition import Weights

# No weight is larger than the inverse of this.
_MIN_PROBABILITY = 1e-9
# Weights are summed as whole multiples of this: sums of integers do not depend on their order.
_RESOLUTION = 2.0**-16


def index_rows(rows: Chunks, *, weights: Weights) -> Chunks:
    """Return the selected rows in the schema `INDEX`; inverse probabilities take one more pass."""
    weight = pl.lit(1.0)
    if weights == "inverse_probability":
        inverse = 1.0 / pl.col(PROBABILITY).clip(_MIN_PROBABILITY, 1.0)
        weight = inverse / _mean(rows, inverse)
    return MappedChunks(rows, functools.partial(_select_index_columns, weight=weight))


def num_rows(rows: Chunks) -> int:
    """Return the number of rows, by one pass."""
    return sum(rows.run(_num_chunk_rows))


def _select_index_columns(rows: pl.LazyFrame, *, weight: pl.Expr) -> pl.LazyFrame:
    origin = [ORIGIN] if rows.collect_schema().get(ORIGIN) == INDEX_ORIGIN[ORIGIN] else []
    return rows.select(
        pl.col(SHARD_ID).cast(INDEX[SHARD_ID]),
        pl.col(ROW).cast(INDEX[ROW]),
        weight.cast(pl.Float32).alias(WEIGHT),
        pl.col(PROBABILITY).cast(pl.Float32),
        *origin,
    )


def _mean(rows: Chunks, value: pl.Expr) -> float:
    """Return the mean of a positive value, the same to the last bit for any chunks."""
    sums = pl.concat(rows.run(functools.partial(_sum_chunk, value=value))).sum()
    return float(sums["sum"][0] * _RESOLUTION / max(1, sums["count"][0]))


def _sum_chunk(rows: pl.LazyFrame, *, value: pl.Expr) -> pl.DataFrame:
    multiples = (value / _RESOLUTION).round().cast(pl.UInt64)
    return rows.select(multiples.sum().alias("sum"), _count().alias("count")).collect()


def _num_chunk_rows(rows: pl.LazyFrame) -> int:
    return int(rows.select(_count()).collect().item())


def _count() -> pl.Expr:
    # Not `pl.len()`: it is u32 and wraps beyond 2^32.
    return pl.col(ROW).is_not_null().cast(pl.UInt64).sum()
