"""Selection of whole blocks: number of rows, hardest blocks, share of the loss."""

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import select
from attent_select.errors import InputError, TooFewError
from attent_select.selection.block_table import Granularity, RowGroupBlocks
from attent_select.selection.blocks import select_blocks, share_by_samples
from attent_select.selection.composition import Composition, Weights
from attent_select.selection.select import Selection
from attent_select.strategies.hard import Hard
from attent_select.strategies.soft import Soft
from attent_select.strategies.uniform import Uniform
from attent_select.strategy import Strategy

NUM_SHARDS, SHARD_ROWS = 12, 50
KINDS = {"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}


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


def select_hardest(
    losses: pl.LazyFrame,
    *,
    granularity: Granularity,
    num_samples: int,
    composition: Composition | None = None,
    strategy: Strategy | None = None,
) -> Selection:
    """Select the hardest blocks, unless another strategy is given."""
    return select_blocks(
        losses,
        granularity=granularity,
        strategy=strategy or Hard(),
        num_samples=num_samples,
        composition=composition,
    ).selection


def ids_of(selection: Selection) -> list[tuple[int, int]]:
    return selection.rows.collect().select("shard_id", "row").rows()


@pytest.mark.parametrize("granularity", ["shard", 10, 7])
@pytest.mark.parametrize("strategy", [Hard(), Soft(), Uniform()], ids=lambda s: type(s).__name__)
def test_all_blocks_except_one_are_whole_and_the_number_of_rows_is_exact(
    granularity: Granularity, strategy: Strategy
) -> None:
    selection = select_blocks(
        catalog(), granularity=granularity, strategy=strategy, num_samples=123
    ).selection
    rows = selection.rows.collect()
    assert len(rows) == selection.num_samples == 123
    size = granularity if isinstance(granularity, int) else SHARD_ROWS
    rows_of_block = Counter(
        (shard, row // size) for shard, row in rows.select("shard_id", "row").rows()
    )
    whole = {
        block: min(size, SHARD_ROWS - block[1] * size) for block in rows_of_block
    }  # the last block of a shard may be shorter
    partial = [block for block, count in rows_of_block.items() if count != whole[block]]
    assert len(partial) <= 1
    keys = rows["shard_id"].cast(pl.Int64) * 1000 + rows["row"]
    assert keys.is_sorted()


def test_hard_selects_the_blocks_with_the_largest_mean_loss() -> None:
    losses = catalog()
    selection = select_hardest(losses, granularity=10, num_samples=100)
    means = (
        losses.with_columns(block=pl.col("row") // 10)
        .group_by("shard_id", "block")
        .agg(pl.col("loss").mean())
        .sort("loss", descending=True)
        .collect()
    )
    expected = set(means.head(10).select("shard_id", "block").rows())
    blocks = selection.rows.collect().select("shard_id", pl.col("row") // 10).rows()
    assert set(blocks) == expected


def test_the_loss_share_is_right_and_smaller_than_with_single_samples() -> None:
    losses = catalog()
    total = losses.select(pl.col("loss").sum()).collect().item()

    def share(rows: pl.LazyFrame) -> float:
        return rows.join(losses, on=["shard_id", "row"]).collect()["loss"].sum() / total

    by_granularity = []
    for granularity in (10, "shard"):
        blocks = select_blocks(losses, granularity=granularity, strategy=Hard(), num_samples=150)
        assert blocks.loss_share == pytest.approx(share(blocks.selection.rows), rel=1e-3)
        by_granularity.append(blocks.loss_share)
    by_samples = share_by_samples(losses, strategy=Hard(), num_samples=150)
    assert by_samples == pytest.approx(
        share(select(losses, strategy=Hard(), num_samples=150).rows), rel=1e-4
    )
    assert by_samples > by_granularity[0] > by_granularity[1] > 150 / 600


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5),
    st.data(),
)
def test_the_loss_share_counts_the_rows_of_a_block_that_is_cut_short(
    shards: list[list[int]], data: st.DataObject
) -> None:
    rows = [(s, r, float(loss)) for s, shard in enumerate(shards) for r, loss in enumerate(shard)]
    frame = pl.DataFrame(rows, schema=KINDS, orient="row")
    num_samples = data.draw(st.integers(1, len(rows)))
    blocks = select_blocks(
        frame.lazy(), granularity="shard", strategy=Hard(), num_samples=num_samples
    )
    selected = frame.join(blocks.selection.rows.collect(), on=["shard_id", "row"])
    total = frame["loss"].sum()
    expected = selected["loss"].sum() / total if total else None
    assert blocks.loss_share == (expected if expected is None else pytest.approx(expected))


def test_a_sample_that_occurs_twice_is_refused() -> None:
    twice = pl.concat([catalog(), catalog().head(1)])
    with pytest.raises(InputError, match="row 0 of shard 0 occurs twice"):
        select_blocks(twice, granularity=10, strategy=Hard(), num_samples=100)


def test_a_strategy_that_does_not_read_the_loss_has_no_loss_share() -> None:
    blocks = select_blocks(catalog(), granularity=10, strategy=Uniform(), num_samples=100)
    assert blocks.loss_share is None
    assert share_by_samples(catalog(), strategy=Uniform(), num_samples=100) is None


def test_ineligible_rows_are_not_part_of_their_block() -> None:
    """Rows without a loss or excluded by `where` are not counted, averaged or selected."""
    losses = pl.LazyFrame(
        {
            "shard_id": [0] * 6 + [1] * 2,
            "row": [0, 1, 2, 3, 4, 5, 0, 1],
            "loss": [9.0, None, 1.0, 3.0, math.nan, 2.0, 0.5, 0.5],
        },
        schema_overrides=KINDS,
    )
    # Blocks of two: 9; (1 + 3)/2 = 2; 2; 0.5. The second and the third tie.
    for count, expected in ((1, [(0, 0)]), (2, [(0, 0), (0, 2)]), (3, [(0, 0), (0, 2), (0, 3)])):
        assert ids_of(select_hardest(losses, granularity=2, num_samples=count)) == expected
    assert select_hardest(losses, granularity=2, num_samples=6).eligible == 6
    low_loss = Composition(where="loss < 2.5")
    # Now: 1 (row 2 alone), 2, 0.5.
    assert ids_of(select_hardest(losses, granularity=2, num_samples=2, composition=low_loss)) == [
        (0, 2),
        (0, 5),
    ]
    with pytest.raises(TooFewError, match="only 4 are eligible") as error:
        select_hardest(losses, granularity=2, num_samples=5, composition=low_loss)
    assert error.value.eligible == 4


def test_row_groups_of_any_size_are_blocks() -> None:
    losses = pl.LazyFrame(
        {
            "shard_id": [0] * 5 + [1] * 3,
            "row": [0, 1, 2, 3, 4, 0, 1, 2],
            "loss": [1.0, 1.0, 1.0, 8.0, 2.0, 4.0, 0.0, 9.0],
        },
        schema_overrides=KINDS,
    )
    starts = np.array([0, 3, 4, 1 << 32, (1 << 32) + 2], dtype=np.uint64)
    # Means: 1, 8, 2, 2, 9; the budget ends inside the block of shard 1, row 0.
    selection = select_hardest(losses, granularity=RowGroupBlocks(starts), num_samples=4)
    assert ids_of(selection) == [(0, 3), (0, 4), (1, 0), (1, 2)]
    assert selection.threshold == 2.0


@given(
    rows=st.lists(
        # Multiples of the resolution of a block's mean.
        st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 512).map(lambda n: n / 64)),
        min_size=1,
        max_size=60,
        unique_by=lambda row: row[:2],
    ),
    size=st.integers(1, 50),
    share=st.floats(0, 1),
)
def test_blocks_are_selected_by_their_mean_loss_for_any_rows(
    rows: list[tuple[int, int, float]], size: int, share: float
) -> None:
    rows = sorted(rows)
    losses = pl.LazyFrame(rows, schema=KINDS, orient="row")
    num_samples = max(1, int(share * len(rows)))
    blocks: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for row in rows:
        blocks.setdefault((row[0], row[1] // size), []).append(row)
    means = {
        block: np.float32(sum(r[2] for r in some) / len(some)) for block, some in blocks.items()
    }
    order = sorted(blocks, key=lambda block: (-means[block], block))
    expected = [row[:2] for block in order for row in blocks[block]][:num_samples]
    assert ids_of(select_hardest(losses, granularity=size, num_samples=num_samples)) == sorted(
        expected
    )


def test_a_budget_in_units_selects_whole_blocks_while_they_fit() -> None:
    losses = catalog().with_columns(num_units=pl.lit(3, pl.UInt32))
    selection = select_blocks(losses, granularity=10, strategy=Hard(), num_units=100).selection
    assert (selection.num_samples, len(selection.rows.collect())) == (30, 30)


def test_the_rows_of_a_block_share_a_weight_and_weights_have_mean_1() -> None:
    composition = Composition(weights="inverse_probability")
    selection = select_hardest(
        catalog(), granularity=10, num_samples=200, composition=composition, strategy=Soft()
    )
    rows = selection.rows.collect()
    assert rows["weight"].mean() == pytest.approx(1, abs=1e-3)
    per_block = rows.group_by("shard_id", pl.col("row") // 10).agg(pl.col("weight").n_unique())
    assert set(per_block["weight"]) == {1}
    assert rows["weight"].n_unique() > 10


def test_the_rows_of_the_partial_block_have_the_probability_of_a_whole_block() -> None:
    rows = select_hardest(
        catalog(), granularity=10, num_samples=129, strategy=Uniform()
    ).rows.collect()
    # The 9 rows of the last block: as if the budget were 13 whole blocks.
    assert sorted(rows["probability"]) == pytest.approx([129 / 600] * 120 + [130 / 600] * 9)
    assert (1 / rows["probability"]).sum() == pytest.approx(600, rel=0.01)


def test_losses_divided_by_probabilities_estimate_the_sum_up_to_one_block() -> None:
    losses = catalog().collect()
    estimates = []
    for seed in range(80):
        blocks = select_blocks(
            losses.lazy(), granularity=10, strategy=Soft(), num_samples=305, seed=seed
        )
        rows = blocks.selection.rows.collect().join(losses, on=["shard_id", "row"])
        estimates.append((rows["loss"] / rows["probability"]).sum())
    standard_error = np.std(estimates) / np.sqrt(len(estimates))
    truth = losses["loss"].sum()
    assert abs(np.mean(estimates) - truth) < 4 * standard_error + truth / 30
    assert standard_error < 0.02 * truth


@pytest.mark.parametrize(
    ("composition", "message"),
    [
        (Composition(by="source"), "by: a block may have rows of several strata"),
        (Composition(explore=0.1), "explore: exploration draws single samples"),
    ],
)
def test_strata_and_exploration_are_rejected(composition: Composition, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_hardest(catalog(), granularity="shard", num_samples=1, composition=composition)


def test_enormous_losses_count_as_very_large_ones() -> None:
    losses = catalog().with_columns(
        loss=pl.when(pl.col("shard_id") == 3).then(pl.lit(1e30, pl.Float32)).otherwise("loss")
    )
    selection = select_hardest(losses, granularity="shard", num_samples=50)
    assert set(selection.rows.collect()["shard_id"]) == {3}


def test_too_many_rows_and_invalid_granularities_are_input_errors() -> None:
    with pytest.raises(InputError, match="only 600 are eligible"):
        select_blocks(catalog(), granularity="shard", strategy=Hard(), num_samples=601)
    with pytest.raises(InputError, match="granularity: 0"):
        select_blocks(catalog(), granularity=0, strategy=Hard(), num_samples=1)


@pytest.mark.parametrize("weights", ["none", "inverse_probability"])
def test_nothing_is_selected_if_no_block_fits(weights: Weights) -> None:
    losses = catalog().with_columns(num_units=pl.lit(1, pl.UInt32))
    selection = select_blocks(
        losses,
        granularity="shard",
        strategy=Hard(),
        num_units=SHARD_ROWS - 1,
        composition=Composition(weights=weights),
    ).selection
    assert selection.num_samples == 0
    assert ids_of(selection) == []
    assert ids_of(select_hardest(catalog(), granularity="shard", num_samples=0)) == []
