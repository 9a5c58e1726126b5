"""The catalog as blocks: one row per block, with sums and means over its eligible rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import NUM_UNITS, ROW, SHARD_ID, numpy_sample_key
from attent_select.selection.chunks import Chunks
from attent_select.selection.columns import COST, ELIGIBLE
from attent_select.stats.elementwise import elementwise

# u64: eligible rows of a block, and all its rows.
NUM_ELIGIBLE: Final = "__num_eligible"
NUM_ROWS: Final = "__num_rows"
_SUM: Final = "__sum "
# Fractions are summed as whole multiples of this: sums of integers do not depend on their order.
_RESOLUTION: Final = 2.0**-20
# Larger absolute values (losses: nats) count as this, so that 2^23 of them can be summed.
_MAX_VALUE: Final = 2.0**20


@dataclass(frozen=True)
class RowGroupBlocks:
    """Blocks of any sizes.

    `starts` is u64[blocks]: the sample_key of the first row of every block, ascending.
    """

    starts: npt.NDArray[np.uint64]

    def first_row(
        self, shards: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32]
    ) -> npt.NDArray[np.uint32]:
        """Return the first row of each row's block."""
        keys = numpy_sample_key(shards, rows)
        blocks = np.searchsorted(self.starts, keys, side="right") - 1
        return self.starts[blocks].astype(np.uint32)  # the low half: the row


# Whole shards, this many consecutive rows of a shard, or the row groups of the corpus.
Granularity = Literal["shard"] | int | RowGroupBlocks


def first_row_of_block(granularity: Granularity) -> pl.Expr:
    """Return a u32 expression: the first row of each row's block."""
    if isinstance(granularity, RowGroupBlocks):
        columns = (pl.col(SHARD_ID), pl.col(ROW))
        return elementwise(granularity.first_row, *columns, dtype=pl.UInt32)
    if granularity == "shard":
        return pl.col(ROW) * pl.lit(0, dtype=pl.UInt32)
    return pl.col(ROW) - pl.col(ROW) % pl.lit(granularity, dtype=pl.UInt32)


def block_table(rows: Chunks, granularity: Granularity, *, columns: Sequence[str]) -> pl.DataFrame:
    """Return one row per block, in any order.

    Columns: shard_id, row (its first), NUM_UNITS (the cost of its eligible rows), NUM_ELIGIBLE,
    NUM_ROWS, and the mean of each of `columns` over its eligible rows.

    Raises:
        InputError: the number of rows per block is outside [1, 2^32), or `columns` has num_units.
    """
    if isinstance(granularity, int) and not 1 <= granularity < 1 << 32:
        raise InputError(f"granularity: {granularity}; expected sample, shard, or rows per block")
    if NUM_UNITS in columns:
        raise InputError(
            "granularity: with blocks a strategy cannot read num_units, which is a block's cost"
        )
    schema = rows.frame().collect_schema()
    dtypes = {name: schema[name] for name in dict.fromkeys(columns)}
    sum_blocks = partial(_sum_blocks, granularity=granularity, dtypes=dtypes)
    means = [_mean(pl.col(f"{_SUM}{name}"), dtype).alias(name) for name, dtype in dtypes.items()]
    sums = pl.concat(rows.run(sum_blocks)).group_by(SHARD_ID, ROW).agg(pl.all().sum())
    return sums.select(SHARD_ID, ROW, NUM_UNITS, NUM_ELIGIBLE, NUM_ROWS, *means)


def reproducible_sum(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return the i64 sum of a column in units of 2^-20 (integers: 1), the same in any order."""
    return _multiples(value, dtype).sum()


def _sum_blocks(
    rows: pl.LazyFrame, *, granularity: Granularity, dtypes: dict[str, pl.DataType]
) -> pl.DataFrame:
    """Sum the eligible rows of each block of a chunk."""
    eligible = pl.col(ELIGIBLE)
    values = {f"{_SUM}{name}": _multiples(pl.col(name), dtype) for name, dtype in dtypes.items()}
    return (
        rows.select(
            SHARD_ID,
            first_row_of_block(granularity).alias(ROW),
            pl.when(eligible).then(pl.col(COST)).alias(NUM_UNITS),
            eligible.cast(pl.UInt64).alias(NUM_ELIGIBLE),
            pl.lit(1, dtype=pl.UInt64).alias(NUM_ROWS),
            *(pl.when(eligible).then(value).alias(name) for name, value in values.items()),
        )
        .group_by(SHARD_ID, ROW)
        .agg(pl.all().sum())
        .collect()
    )


def _multiples(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if not dtype.is_integer():
        value = (value.cast(pl.Float64).clip(-_MAX_VALUE, _MAX_VALUE) / _RESOLUTION).round()
    return value.cast(pl.Int64)


def _mean(total: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    resolution = 1.0 if dtype.is_integer() else _RESOLUTION
    mean = total * resolution / pl.col(NUM_ELIGIBLE)
    return mean.cast(dtype) if dtype == pl.Float32 else mean
