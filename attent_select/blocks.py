"""Selecting whole blocks of samples that are stored together, to trade precision for fewer bytes.

Here: the catalog as blocks (a shard, or so many consecutive rows of one), the choice among them,
and blocks back to rows. Not here: how a choice is made (`teaching.py`: a block is a sample that
costs its rows).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import polars as pl

from attent_select.composition import Weights
from attent_select.errors import InputError
from attent_select.pieces import Whole
from attent_select.schema import INDEX, LOSS, NUM_UNITS, PROBABILITY, ROW, SHARD_ID, WEIGHT
from attent_select.strategy import Strategy
from attent_select.teaching import Selection, index_rows, num_rows, select
from attent_select.top_m import check_enough

_BLOCK: Final = "__block"
_FIRST_ROWS: Final = "__first_rows"
_SUM: Final = "__sum"
# Losses are summed as whole multiples of this, so that their order does not matter.
_RESOLUTION: Final = 2.0**-20
# Larger losses (nats) count as this: 2^23 of them can be summed.
_LARGEST: Final = 2.0**20

Granularity = Literal["shard"] | int


def select_blocks(
    losses: pl.LazyFrame,
    *,
    granularity: Granularity,
    strategy: Strategy,
    num_samples: int,
    seed: int = 0,
    round_number: int = 0,
    round_steps: Sequence[int] = (),
    weights: Weights = "none",
) -> tuple[Selection, float]:
    """Exactly `num_samples` rows of whole blocks, the last of which is cut short.

    A block's loss is the mean of its samples' losses. Conditions on single rows make no sense for
    whole blocks: this goes without a `Composition`.

    Args:
        losses: shard_id, row and loss.
        granularity: `shard`, or rows per block, such as the corpus' rows per row group.
        strategy: one that needs no column but the loss.
        num_samples: m.
        seed: of the run.
        round_number: each round draws anew.
        round_steps: see `select`.
        weights: see `Composition`.

    Returns:
        The selection, and the share of all loss that it holds: what is given up for fewer bytes
        shows against the same selection by samples.

    Raises:
        InputError: as `select`, or the granularity is no number of rows.
    """
    if granularity != "shard" and granularity < 1:
        raise InputError(f"granularity: {granularity}; expected sample, shard, or rows per block")
    # One row per block is held in memory: otherwise every pass would sum the catalog again.
    blocks = as_blocks(losses, granularity).collect(engine="streaming").lazy()
    found = select(
        blocks,
        strategy=strategy,
        num_units=num_samples,
        seed=seed,
        round_number=round_number,
        round_steps=round_steps,
    )
    chosen = _chosen(blocks, found, num_samples)
    rows = as_rows(losses, chosen.lazy(), granularity)
    share = _mass(chosen) / (_mass(blocks.collect()) or 1.0)
    selection = replace(
        found,
        pieces=index_rows(Whole(rows), weights=weights),
        num_samples=num_samples,
        total=num_rows(Whole(losses)),
        eligible=num_rows(Whole(losses)),
        first_excluded=None,
    )
    return selection, share


def as_blocks(rows: pl.LazyFrame, granularity: Granularity) -> pl.LazyFrame:
    """One row per block: shard_id, `row` (its number in the shard), mean loss (null if no row has
    one), and NUM_UNITS, how many rows it has.
    """
    finite = pl.col(LOSS).is_finite().fill_null(False)
    loss = pl.col(LOSS).cast(pl.Float64).clip(-_LARGEST, _LARGEST)
    whole = (loss / _RESOLUTION).round().cast(pl.Int64)
    mean = pl.col(_SUM) * _RESOLUTION / pl.col("with_loss")
    return (
        rows.select(
            SHARD_ID,
            _block(granularity).alias(ROW),
            pl.when(finite).then(whole).alias(_SUM),
            finite.cast(pl.UInt64).alias("with_loss"),
            (pl.col(ROW) >= 0).cast(pl.UInt64).alias(NUM_UNITS),
        )
        .group_by(SHARD_ID, ROW)
        .agg(pl.col(_SUM).sum(), pl.col("with_loss").sum(), pl.col(NUM_UNITS).sum())
        .select(
            SHARD_ID,
            ROW,
            pl.when(pl.col("with_loss") > 0).then(mean).cast(pl.Float32).alias(LOSS),
            pl.col(NUM_UNITS).cast(pl.UInt32),
        )
    )


def as_rows(rows: pl.LazyFrame, chosen: pl.LazyFrame, granularity: Granularity) -> pl.LazyFrame:
    """The first rows of the chosen blocks, each with its block's probability, in order."""
    within = pl.col(ROW) if granularity == "shard" else pl.col(ROW) % granularity
    blocks = chosen.select(
        SHARD_ID, pl.col(ROW).alias(_BLOCK), WEIGHT, PROBABILITY, pl.col(_FIRST_ROWS)
    )
    return (
        rows.select(SHARD_ID, ROW, _block(granularity).alias(_BLOCK))
        .join(blocks, on=[SHARD_ID, _BLOCK], how="inner", maintain_order="left")
        .filter(within < pl.col(_FIRST_ROWS))
        .select(*INDEX)
    )


def _block(granularity: Granularity) -> pl.Expr:
    if granularity == "shard":
        return pl.col(ROW) * pl.lit(0, dtype=pl.UInt32)
    return pl.col(ROW) // pl.lit(granularity, dtype=pl.UInt32)


def _chosen(blocks: pl.LazyFrame, found: Selection, num_samples: int) -> pl.DataFrame:
    """The chosen blocks with their loss, and how many of their first rows are taken."""
    whole = found.rows.join(blocks, on=[SHARD_ID, ROW], maintain_order="left").with_columns(
        pl.col(NUM_UNITS).alias(_FIRST_ROWS)
    )
    chosen = whole.collect(engine="streaming")
    taken = int(chosen[NUM_UNITS].cast(pl.UInt64).sum())
    if taken == num_samples:
        return chosen
    if found.first_excluded is None:
        check_enough(taken, num_selected=num_samples)
    shard_id, block = found.first_excluded or (0, 0)
    last = blocks.filter((pl.col(SHARD_ID) == shard_id) & (pl.col(ROW) == block)).select(
        SHARD_ID,
        ROW,
        pl.lit(1.0, pl.Float32).alias(WEIGHT),
        pl.lit(1.0, pl.Float32).alias(PROBABILITY),
        LOSS,
        NUM_UNITS,
        pl.lit(num_samples - taken, pl.UInt32).alias(_FIRST_ROWS),
    )
    return pl.concat([chosen, last.collect(engine="streaming")])


def _mass(blocks: pl.DataFrame) -> float:
    rows = pl.col(_FIRST_ROWS if _FIRST_ROWS in blocks.columns else NUM_UNITS).cast(pl.Float64)
    return float(blocks.select((pl.col(LOSS).cast(pl.Float64) * rows).sum()).item() or 0.0)
