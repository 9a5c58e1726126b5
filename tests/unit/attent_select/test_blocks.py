"""Selecting whole blocks: exactly as many rows, the hardest blocks, and what it gives up."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from attent_select import select
from attent_select.blocks import select_blocks
from attent_select.errors import InputError
from attent_select.strategies.hard import Hard
from attent_select.strategies.soft import Soft
from attent_select.strategies.uniform import Uniform

NUM_SHARDS, SHARD_ROWS = 12, 50


def catalog() -> pl.LazyFrame:
    rng = np.random.default_rng(0)
    hardness = np.repeat(rng.gamma(2, 1, NUM_SHARDS * 5), 10)
    return pl.LazyFrame(
        {
            "shard_id": np.repeat(np.arange(NUM_SHARDS, dtype=np.uint32), SHARD_ROWS),
            "row": np.tile(np.arange(SHARD_ROWS, dtype=np.uint32), NUM_SHARDS),
            "loss": (hardness * rng.gamma(2, 0.5, len(hardness))).astype(np.float32),
        }
    )


@pytest.mark.parametrize("granularity", ["shard", 10, 7])
@pytest.mark.parametrize("strategy", [Hard(), Soft(), Uniform()], ids=lambda s: type(s).__name__)
def test_all_blocks_but_one_are_whole_and_the_rows_are_as_many_as_asked_for(
    granularity: int, strategy: Hard
) -> None:
    selection, _ = select_blocks(
        catalog(), granularity=granularity, strategy=strategy, num_samples=123
    )
    rows = selection.rows.collect()
    assert len(rows) == selection.num_samples == 123
    size = SHARD_ROWS if granularity == "shard" else granularity
    taken = Counter((shard, row // size) for shard, row in rows.select("shard_id", "row").rows())
    whole = {
        block: min(size, SHARD_ROWS - block[1] * size) for block in taken
    }  # the last block of a shard may be shorter
    torn = [block for block, count in taken.items() if count != whole[block]]
    assert len(torn) <= 1
    keys = rows["shard_id"].cast(pl.Int64) * 1000 + rows["row"]
    assert keys.is_sorted()


def test_hard_takes_the_blocks_with_the_largest_mean_loss() -> None:
    losses = catalog()
    selection, _ = select_blocks(losses, granularity=10, strategy=Hard(), num_samples=100)
    means = (
        losses.with_columns(block=pl.col("row") // 10)
        .group_by("shard_id", "block")
        .agg(pl.col("loss").mean())
        .sort("loss", descending=True)
        .collect()
    )
    expected = set(means.head(10).select("shard_id", "block").rows())
    chosen = selection.rows.collect().select("shard_id", pl.col("row") // 10).rows()
    assert set(chosen) == expected


def test_the_share_of_the_loss_is_that_of_the_rows_and_at_most_that_of_single_samples() -> None:
    losses = catalog()
    total = losses.select(pl.col("loss").sum()).collect().item()

    def share(rows: pl.LazyFrame) -> float:
        return rows.join(losses, on=["shard_id", "row"]).collect()["loss"].sum() / total

    best = share(select(losses, strategy=Hard(), num_samples=120).rows)
    by_granularity = []
    for granularity in (10, "shard"):
        selection, stated = select_blocks(
            losses, granularity=granularity, strategy=Hard(), num_samples=150
        )
        assert stated == pytest.approx(share(selection.rows), rel=1e-3)
        by_granularity.append(stated)
    assert by_granularity[0] > by_granularity[1] > 150 / 600
    assert best > by_granularity[1]


def test_rows_without_a_loss_do_not_spoil_their_block() -> None:
    losses = catalog().with_columns(
        loss=pl.when(pl.col("row") % 10 == 0).then(None).otherwise(pl.col("loss"))
    )
    selection, _ = select_blocks(losses, granularity=10, strategy=Hard(), num_samples=600)
    assert len(selection.rows.collect()) == 600


def test_enormous_losses_are_counted_as_very_large_ones() -> None:
    losses = catalog().with_columns(
        loss=pl.when(pl.col("shard_id") == 3).then(pl.lit(1e30, pl.Float32)).otherwise("loss")
    )
    selection, _ = select_blocks(losses, granularity="shard", strategy=Hard(), num_samples=50)
    assert set(selection.rows.collect()["shard_id"]) == {3}


def test_more_rows_than_there_are_and_silly_granularities_are_input_errors() -> None:
    with pytest.raises(InputError, match="only 600 are eligible"):
        select_blocks(catalog(), granularity="shard", strategy=Hard(), num_samples=601)
    with pytest.raises(InputError, match="granularity: 0"):
        select_blocks(catalog(), granularity=0, strategy=Hard(), num_samples=1)
