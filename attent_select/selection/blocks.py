"""Selection of whole blocks of samples that are stored together: less precise, fewer bytes to read.

The blocks are selected like samples, then mapped back to rows. The share of the loss shows what the
lost precision costs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import INDEX, LOSS, PROBABILITY, ROW, SHARD_ID, WEIGHT, numpy_sample_key
from attent_select.selection.block_table import (
    NUM_ELIGIBLE,
    NUM_ROWS,
    Granularity,
    block_table,
    first_row_of_block,
    reproducible_sum,
)
from attent_select.selection.chunks import Chunks, FrameChunks, MappedChunks
from attent_select.selection.columns import ELIGIBLE
from attent_select.selection.composition import Composition, Weights
from attent_select.selection.counting import require_rows
from attent_select.selection.eligibility import eligible_rows
from attent_select.selection.select import Preview, Selection, num_samples_of, select
from attent_select.selection.weights import index_rows
from attent_select.stats.elementwise import elementwise
from attent_select.strategy import Strategy, key_columns

# Position of a row's block among the selected blocks, −1 if it is not selected.
_POSITION: Final = "__position"
# Last row of a block that is selected, null if all are.
_LAST_ROW: Final = "__last_row"
_MAX_ROW: Final = (1 << 32) - 1


@dataclass(frozen=True)
class BlockSelection:
    """A selection of whole blocks.

    `loss_share` is its share of the loss of all eligible rows, None if the strategy does not read
    the loss. Compare it with `share_by_samples`.
    """

    selection: Selection
    loss_share: float | None


def check_composition(composition: Composition) -> None:
    """Check that a composition can be used with blocks.

    Raises:
        InputError: it has strata or exploration.
    """
    if composition.by is not None:
        raise InputError(
            "by: a block may have rows of several strata; use `granularity: sample`, or remove `by`"
        )
    if composition.explore:
        raise InputError(
            "explore: exploration draws single samples; use `granularity: sample`, or remove "
            "`explore`"
        )


def select_blocks(
    losses: pl.LazyFrame | Chunks,
    *,
    granularity: Granularity,
    strategy: Strategy,
    num_samples: int | None = None,
    ratio: float | None = None,
    num_units: int | None = None,
    seed: int = 0,
    round_number: int = 0,
    round_steps: Sequence[int] = (),
    composition: Composition | None = None,
) -> BlockSelection:
    """Select whole blocks; the last one is cut short to get exactly the requested number of rows.

    A block consists of its eligible rows; the others neither count nor are selected. A column that
    the strategy reads (the loss) is averaged over the rows of a block, and all of them have the
    block's inclusion probability. One row per block is held in memory.

    Args:
        losses: see `select`.
        granularity: `shard`, rows per block, or the row groups of the corpus.
        strategy: the columns that it reads must be numbers that can be averaged.
        num_samples: exactly this many rows. Pass one of `num_samples`, `ratio`, `num_units`.
        ratio: num_samples as a share of all rows, in (0, 1].
        num_units: budget in units: whole blocks in the order of their keys until it is used up.
        seed: seed of the run.
        round_number: changes the random draw.
        round_steps: see `select`.
        composition: without `by` and `explore`.

    Raises:
        InputError: see `select`; or the granularity is invalid.
    """
    composition = composition or Composition()
    check_composition(composition)
    in_units = num_units is not None
    rows = eligible_rows(losses, strategy=strategy, composition=composition, in_units=in_units)
    # Collected, because otherwise every pass would sum the catalog again.
    all_blocks = block_table(rows, granularity, columns=key_columns(strategy))
    total, eligible = (int(all_blocks[name].sum()) for name in (NUM_ROWS, NUM_ELIGIBLE))
    blocks = all_blocks.filter(pl.col(NUM_ELIGIBLE) > 0).sort(SHARD_ID, ROW)
    if ratio is not None:
        num_samples = num_samples_of(ratio, total=total)
    require_rows(num_samples or 0, eligible=eligible)
    draw = partial(select, seed=seed, round_number=round_number, round_steps=round_steps)
    select_from_blocks = partial(
        draw, blocks.lazy(), strategy=strategy, composition=Composition(explore=0.0)
    )
    selected, threshold = _blocks_in_budget(
        rows,
        blocks,
        select_from_blocks,
        granularity=granularity,
        num_samples=num_samples,
        num_units=num_units,
    )
    chunks = _index_of_blocks(rows, selected, granularity, weights=composition.weights)
    count = int(selected[NUM_ELIGIBLE].sum())
    selection = Selection(chunks, count, total, eligible, threshold)
    return BlockSelection(selection, _share(_total_loss(selected), _total_loss(blocks)))


def share_by_samples(
    losses: pl.LazyFrame | Chunks,
    *,
    strategy: Strategy,
    num_samples: int,
    seed: int = 0,
    round_number: int = 0,
    round_steps: Sequence[int] = (),
    composition: Composition | None = None,
    preview: Preview | None = None,
) -> float | None:
    """Return the share of all loss if the strategy selects as many single samples instead."""
    if LOSS not in strategy.columns:
        return None
    composition = composition or Composition()
    selection = select(
        losses,
        strategy=strategy,
        num_samples=num_samples,
        seed=seed,
        round_number=round_number,
        round_steps=round_steps,
        composition=composition,
        preview=preview,
    )
    if selection.catalog_rows is None:
        return None
    rows = eligible_rows(losses, strategy=strategy, composition=composition, in_units=False)
    selected, available = (sum(each.run(_sum_loss)) for each in (selection.catalog_rows, rows))
    return _share(float(selected), float(available))


def _sum_loss(rows: pl.LazyFrame) -> int:
    """Return the loss of the eligible rows, in multiples of the resolution."""
    if ELIGIBLE in rows.collect_schema():
        rows = rows.filter(ELIGIBLE)
    return int(rows.select(reproducible_sum(pl.col(LOSS), pl.Float32())).collect().item() or 0)


def _blocks_in_budget(
    rows: Chunks,
    blocks: pl.DataFrame,
    select_from_blocks: Callable[..., Selection],
    *,
    granularity: Granularity,
    num_samples: int | None,
    num_units: int | None,
) -> tuple[pl.DataFrame, float | None]:
    """Return the blocks within the budget, and the smallest key of the whole ones."""
    # Eligible rows are what a block costs: its NUM_UNITS are 1 per row with a budget in samples.
    selection = select_from_blocks(num_units=num_units if num_samples is None else num_samples)
    selected = _selected_blocks(selection, blocks)
    if num_samples is not None:
        missing = num_samples - int(selected[NUM_ELIGIBLE].sum())
        if missing:
            assert selection.first_excluded is not None
            partial_block = _PartialBlock(*selection.first_excluded, missing)
            # Selected as a whole first, which gives its rows the probability of a whole block.
            budget = num_samples - missing + partial_block.size(blocks)
            with_whole = _selected_blocks(select_from_blocks(num_units=budget), blocks)
            cut_short = partial_block.cut_short(with_whole, rows, granularity)
            selected = pl.concat([selected, cut_short])
    return selected, selection.threshold


def _selected_blocks(selection: Selection, blocks: pl.DataFrame) -> pl.DataFrame:
    """Return the selected blocks with their columns, and _LAST_ROW."""
    index = pl.concat([pl.DataFrame(schema=INDEX), *selection.frames()])
    all_rows = pl.lit(None, pl.UInt32).alias(_LAST_ROW)
    joined = index.join(blocks, on=[SHARD_ID, ROW], maintain_order="left")
    return joined.with_columns(all_rows)


@dataclass(frozen=True)
class _PartialBlock:
    """The first block beyond the budget, of which only `missing` rows are selected."""

    shard_id: int
    first_row: int
    missing: int

    def size(self, blocks: pl.DataFrame) -> int:
        return int(blocks.filter(self._is_this_block)[NUM_ELIGIBLE].item())

    def cut_short(
        self, selected: pl.DataFrame, rows: Chunks, granularity: Granularity
    ) -> pl.DataFrame:
        """Return this block, from `selected`, with its last row and the mean loss up to it.

        Takes a pass over `rows`.
        """
        work = partial(
            _rows_of_block,
            granularity=granularity,
            shard_id=self.shard_id,
            first_row=self.first_row,
        )
        taken = pl.concat(rows.run(work)).sort(ROW).head(self.missing)
        means = [mean for mean in taken.drop(ROW).mean().iter_columns() if mean.name in selected]
        return selected.filter(self._is_this_block).with_columns(
            pl.lit(self.missing, pl.UInt64).alias(NUM_ELIGIBLE),
            pl.lit(taken[ROW][-1], pl.UInt32).alias(_LAST_ROW),
            *means,
        )

    @property
    def _is_this_block(self) -> pl.Expr:
        return (pl.col(SHARD_ID) == self.shard_id) & (pl.col(ROW) == self.first_row)


def _rows_of_block(
    rows: pl.LazyFrame, *, granularity: Granularity, shard_id: int, first_row: int
) -> pl.DataFrame:
    """Return the eligible rows of a block, with their losses where these are read."""
    in_shard = rows.filter((pl.col(SHARD_ID) == shard_id) & pl.col(ELIGIBLE))
    columns = [name for name in (ROW, LOSS) if name in rows.collect_schema()]
    return in_shard.filter(first_row_of_block(granularity) == first_row).select(columns).collect()


def _index_of_blocks(
    rows: Chunks, selected: pl.DataFrame, granularity: Granularity, *, weights: Weights
) -> Chunks:
    if selected.is_empty():
        return FrameChunks(pl.LazyFrame(schema=INDEX))
    only_selected = partial(_rows_of_blocks, selected=selected, granularity=granularity)
    return index_rows(MappedChunks(rows, only_selected), weights=weights)


def _rows_of_blocks(
    rows: pl.LazyFrame, *, selected: pl.DataFrame, granularity: Granularity
) -> pl.LazyFrame:
    """Return the eligible rows of the selected blocks in order, with the probability of a block."""
    # Not a join, which would hash all selected blocks again for every chunk.
    first = numpy_sample_key(selected[SHARD_ID].to_numpy(), selected[ROW].to_numpy())
    order = np.argsort(first)
    last_row = selected[_LAST_ROW].fill_null(_MAX_ROW).to_numpy()[order]
    find = partial(_find_block, first=first[order], last_row=last_row)
    columns = (pl.col(SHARD_ID), pl.col(ROW), first_row_of_block(granularity))
    probability = selected[PROBABILITY].gather(order).to_numpy()
    return (
        rows.filter(ELIGIBLE)
        .select(SHARD_ID, ROW, elementwise(find, *columns, dtype=pl.Int64).alias(_POSITION))
        .filter(pl.col(_POSITION) >= 0)
        .select(
            SHARD_ID,
            ROW,
            pl.lit(1.0, pl.Float32).alias(WEIGHT),
            elementwise(probability.take, pl.col(_POSITION), dtype=pl.Float32).alias(PROBABILITY),
        )
    )


def _find_block(
    shards: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.uint32],
    blocks: npt.NDArray[np.uint32],
    *,
    first: npt.NDArray[np.uint64],
    last_row: npt.NDArray[np.uint32],
) -> npt.NDArray[np.int64]:
    """Return the position of each row's block among `first`, −1 if the row is not selected.

    Args:
        shards: uint32[n], shard of each row.
        rows: uint32[n].
        blocks: uint32[n], first row of each row's block.
        first: uint64[blocks], sample_key of the first row of each selected block, ascending.
        last_row: uint32[blocks], last selected row of each.
    """
    keys = numpy_sample_key(shards, blocks)
    at = np.minimum(np.searchsorted(first, keys), len(first) - 1)
    return np.where((first[at] == keys) & (rows <= last_row[at]), at, -1)


def _total_loss(blocks: pl.DataFrame) -> float | None:
    """Return the sum of the losses of the blocks' rows; None without losses."""
    if LOSS not in blocks.columns:
        return None
    loss = pl.col(LOSS).cast(pl.Float64)
    return float(blocks.select((loss * pl.col(NUM_ELIGIBLE).cast(pl.Float64)).sum()).item())


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole is not None and whole > 0 else None
