"""Selecting whole blocks of samples that are stored together, to trade precision for fewer bytes.

The catalog as blocks (a shard, so many consecutive rows of one, or a row group), the choice
among them, blocks back to rows, and what is given up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import (
    INDEX,
    LOSS,
    NUM_UNITS,
    PROBABILITY,
    ROW,
    SHARD_ID,
    WEIGHT,
    numpy_sample_key,
)
from attent_select.selection.chunks import Chunks, Mapped, Whole
from attent_select.selection.composition import Composition
from attent_select.selection.eligibility import ELIGIBLE, eligible_rows
from attent_select.selection.radix import COST
from attent_select.selection.select import Preview, Selection, index_rows, num_samples_of, select
from attent_select.selection.top_m import check_enough
from attent_select.stats.elementwise import elementwise
from attent_select.strategy import Strategy

_AT: Final = "__at"
_ROWS: Final = "__rows"
_TOTAL: Final = "__total"
_LAST_ROW: Final = "__last_row"
_SUM: Final = "__sum "
# No block is cut short there.
_END: Final = (1 << 32) - 1
# Fractions are summed as whole multiples of this, so that their order does not matter.
_RESOLUTION: Final = 2.0**-20
# Larger numbers (losses: nats) count as this: 2^23 of them can be summed.
_LARGEST: Final = 2.0**20


@dataclass(frozen=True)
class RowGroupBlocks:
    """Blocks of any sizes. `starts` is u64[blocks]: the sample_key of the first row of every block
    of the corpus, ascending.
    """

    starts: npt.NDArray[np.uint64]

    def first_row(
        self, shards: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32]
    ) -> npt.NDArray[np.uint32]:
        """The first row of the block that each row is in."""
        keys = numpy_sample_key(shards, rows)
        blocks = np.searchsorted(self.starts, keys, side="right") - 1
        return self.starts[blocks].astype(np.uint32)  # the low half: the row


Granularity = Literal["shard"] | int | RowGroupBlocks


@dataclass(frozen=True)
class BlockSelection:
    """A selection of whole blocks.

    `loss_share` is the part of the loss of all eligible rows that it holds; None where the strategy
    does not look at losses. See `share_by_samples` for what to compare it with.
    """

    selection: Selection
    loss_share: float | None


def check_composition(composition: Composition) -> None:
    """Raises `InputError` for what makes no sense with whole blocks."""
    if composition.by is not None:
        raise InputError(
            "by: a block may hold rows of several strata; select by `granularity: sample`, or "
            "leave `by` out"
        )
    if composition.explore:
        raise InputError(
            "explore: it draws single samples; select by `granularity: sample`, or leave `explore` "
            "out"
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
    """Exactly as many rows as asked for, in whole blocks, the last of which is cut short.

    A block consists of its eligible rows: the others (no finite loss, `where`, guards) neither
    count nor are selected. What a strategy reads of a block (its loss) is the mean over its rows,
    and all its rows have the block's inclusion probability. One row per block is held in memory.

    Args:
        losses: as for `select`.
        granularity: `shard`, rows per block, or the row groups of the corpus.
        strategy: what it reads must be numbers whose mean has a meaning.
        num_samples: exactly this many rows. Give one of `num_samples`, `ratio`, `num_units`.
        ratio: num_samples as a share of all rows, in (0, 1].
        num_units: as many whole blocks as fit into this many units, in the order of their keys.
        seed: of the run.
        round_number: each round draws anew.
        round_steps: see `select`.
        composition: without `by` and `explore`.

    Raises:
        InputError: as `select`, or the granularity is no number of rows.
    """
    composition = composition or Composition()
    _check(granularity, composition)
    in_units = num_units is not None
    rows = eligible_rows(losses, strategy=strategy, composition=composition, in_units=in_units)
    every = as_blocks(rows, granularity, columns=strategy.columns)
    total, eligible = (int(every[name].sum()) for name in (_TOTAL, _ROWS))
    # One row per block is held in memory: otherwise every pass would sum the catalog again.
    blocks = every.filter(pl.col(_ROWS) > 0).sort(SHARD_ID, ROW)
    wanted = num_samples_of(ratio, total=total) if ratio is not None else num_samples
    check_enough(eligible, num_selected=wanted or 0)
    ask = partial(
        select,
        blocks.lazy(),
        strategy=strategy,
        seed=seed,
        round_number=round_number,
        round_steps=round_steps,
    )
    budget = {"num_samples": wanted, "num_units": num_units}
    chosen, threshold = _in_order(rows, blocks, ask, granularity=granularity, **budget)
    chunks: Chunks = Whole(pl.LazyFrame(schema=INDEX))
    if len(chosen):
        taken = Mapped(rows, partial(_as_rows, chosen=chosen, granularity=granularity))
        chunks = index_rows(taken, weights=composition.weights)
    count = int(chosen[_ROWS].sum())
    selection = Selection(chunks, count, total, eligible, threshold)
    return BlockSelection(selection, _share(_mass(chosen), _mass(blocks)))


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
    """The share of all loss that the same strategy holds with as many single samples."""
    if LOSS not in strategy.columns:
        return None
    composition = composition or Composition()
    found = select(
        losses,
        strategy=strategy,
        num_samples=num_samples,
        seed=seed,
        round_number=round_number,
        round_steps=round_steps,
        composition=composition,
        preview=preview,
    )
    if found.picked is None:
        return None
    rows = eligible_rows(losses, strategy=strategy, composition=composition, in_units=False)
    held, all_of_it = (sum(each.run(_whole_loss)) for each in (found.picked, rows))
    return _share(float(held), float(all_of_it))


def _whole_loss(rows: pl.LazyFrame) -> int:
    """The losses of the eligible rows, in multiples of the resolution."""
    if ELIGIBLE in rows.collect_schema():
        rows = rows.filter(ELIGIBLE)
    return int(rows.select(_whole(pl.col(LOSS), pl.Float32()).sum()).collect().item() or 0)


def as_blocks(rows: Chunks, granularity: Granularity, *, columns: Sequence[str]) -> pl.DataFrame:
    """One row per block, in any order: shard_id, `row` (its first), the mean of each of `columns`
    over its eligible rows, what these cost as NUM_UNITS, and how many they are of how many.
    """
    if NUM_UNITS in columns:
        raise InputError("granularity: the strategy reads num_units, which is what a block costs")
    kinds = rows.frame().collect_schema()
    names = dict.fromkeys(columns)
    work = partial(_sums, granularity=granularity, kinds={name: kinds[name] for name in names})
    means = [_mean(pl.col(f"{_SUM}{name}"), kinds[name]).alias(name) for name in names]
    sums = pl.concat(rows.run(work)).group_by(SHARD_ID, ROW).agg(pl.all().sum())
    return sums.select(SHARD_ID, ROW, NUM_UNITS, _ROWS, _TOTAL, *means)


def _sums(
    rows: pl.LazyFrame, *, granularity: Granularity, kinds: dict[str, pl.DataType]
) -> pl.DataFrame:
    """Of a chunk: what the eligible rows of each block add up to."""
    eligible = pl.col(ELIGIBLE)
    sums = {f"{_SUM}{name}": _whole(pl.col(name), kind) for name, kind in kinds.items()}
    return (
        rows.select(
            SHARD_ID,
            _first_row(granularity).alias(ROW),
            pl.when(eligible).then(pl.col(COST)).alias(NUM_UNITS),
            eligible.cast(pl.UInt64).alias(_ROWS),
            pl.lit(1, dtype=pl.UInt64).alias(_TOTAL),
            *(pl.when(eligible).then(value).alias(name) for name, value in sums.items()),
        )
        .group_by(SHARD_ID, ROW)
        .agg(pl.all().sum())
        .collect()
    )


def _as_rows(rows: pl.LazyFrame, *, chosen: pl.DataFrame, granularity: Granularity) -> pl.LazyFrame:
    """The eligible rows of the chosen blocks, up to each block's last one, each with its block's
    probability, in order.
    """
    # Not a join: that would hash all chosen blocks again for every chunk.
    first = numpy_sample_key(chosen[SHARD_ID].to_numpy(), chosen[ROW].to_numpy())
    order = np.argsort(first)
    last = chosen[_LAST_ROW].fill_null(_END).to_numpy()[order]
    found = partial(_position, first=first[order], last=last)
    columns = (pl.col(SHARD_ID), pl.col(ROW), _first_row(granularity))
    probability = chosen[PROBABILITY].gather(order).to_numpy()
    at = elementwise(found, *columns, dtype=pl.Int64)
    return (
        rows.filter(ELIGIBLE)
        .select(SHARD_ID, ROW, at.alias(_AT))
        .filter(pl.col(_AT) >= 0)
        .select(
            SHARD_ID,
            ROW,
            pl.lit(1.0, pl.Float32).alias(WEIGHT),
            elementwise(probability.take, pl.col(_AT), dtype=pl.Float32).alias(PROBABILITY),
        )
    )


def _position(
    shards: npt.NDArray[np.uint32],
    rows: npt.NDArray[np.uint32],
    blocks: npt.NDArray[np.uint32],
    *,
    first: npt.NDArray[np.uint64],
    last: npt.NDArray[np.uint32],
) -> npt.NDArray[np.int64]:
    """Which of the chosen blocks (by their `first` keys, ascending) a row is in; −1: none."""
    keys = numpy_sample_key(shards, blocks)
    at = np.minimum(np.searchsorted(first, keys), len(first) - 1)
    return np.where((first[at] == keys) & (rows <= last[at]), at, -1)


def _check(granularity: Granularity, composition: Composition) -> None:
    check_composition(composition)
    if isinstance(granularity, int) and not 1 <= granularity < 1 << 32:
        raise InputError(f"granularity: {granularity}; expected sample, shard, or rows per block")


def _first_row(granularity: Granularity) -> pl.Expr:
    """u32: the first row of the block that a row is in."""
    if isinstance(granularity, RowGroupBlocks):
        columns = (pl.col(SHARD_ID), pl.col(ROW))
        return elementwise(granularity.first_row, *columns, dtype=pl.UInt32)
    if granularity == "shard":
        return pl.col(ROW) * pl.lit(0, dtype=pl.UInt32)
    return pl.col(ROW) - pl.col(ROW) % pl.lit(granularity, dtype=pl.UInt32)


def _whole(value: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """i64 that can be summed in any order."""
    if not kind.is_integer():
        value = (value.cast(pl.Float64).clip(-_LARGEST, _LARGEST) / _RESOLUTION).round()
    return value.cast(pl.Int64)


def _mean(total: pl.Expr, kind: pl.DataType) -> pl.Expr:
    resolution = 1.0 if kind.is_integer() else _RESOLUTION
    mean = total * resolution / pl.col(_ROWS)
    return mean.cast(kind) if kind == pl.Float32 else mean


def _in_order(
    rows: Chunks,
    blocks: pl.DataFrame,
    ask: Callable[..., Selection],
    *,
    granularity: Granularity,
    num_samples: int | None,
    num_units: int | None,
) -> tuple[pl.DataFrame, float | None]:
    """The blocks that `ask` chooses within the budget, and the smallest key of whole ones."""
    found = ask(num_units=num_units if num_samples is None else num_samples)
    chosen = _taken(found, blocks)
    if num_samples is not None and (missing := num_samples - int(chosen[_ROWS].sum())):
        assert found.first_excluded is not None
        following = _Following(*found.first_excluded, missing)
        # Asked for as a whole: so its rows get the probability of such a block.
        more = _taken(ask(num_units=num_samples - missing + following.size(blocks)), blocks)
        chosen = pl.concat([chosen, following.cut_short(more, rows, granularity)])
    return chosen, found.threshold


def _taken(found: Selection, blocks: pl.DataFrame) -> pl.DataFrame:
    """The chosen blocks with their loss, and up to which row they are taken (null: all)."""
    picked = pl.concat([pl.DataFrame(schema=INDEX), *found.frames()])
    all_rows = pl.lit(None, pl.UInt32).alias(_LAST_ROW)
    joined = picked.join(blocks, on=[SHARD_ID, ROW], maintain_order="left")
    return joined.with_columns(all_rows)


@dataclass(frozen=True)
class _Following:
    """The first block beyond a budget, by its shard and first row, and how many of its rows make
    up for what whole blocks leave of the budget.
    """

    shard_id: int
    first_row: int
    missing: int

    def size(self, blocks: pl.DataFrame) -> int:
        return int(blocks.filter(self._is_it)[_ROWS].item())

    def cut_short(
        self, taken: pl.DataFrame, rows: Chunks, granularity: Granularity
    ) -> pl.DataFrame:
        """The block among `taken`; where it ends takes one pass over the rows."""
        work = partial(
            _rows_of_block,
            granularity=granularity,
            shard_id=self.shard_id,
            first_row=self.first_row,
        )
        last_row = int(pl.concat(rows.run(work)).sort()[self.missing - 1])
        return taken.filter(self._is_it).with_columns(
            pl.lit(self.missing, pl.UInt64).alias(_ROWS),
            pl.lit(last_row, pl.UInt32).alias(_LAST_ROW),
        )

    @property
    def _is_it(self) -> pl.Expr:
        return (pl.col(SHARD_ID) == self.shard_id) & (pl.col(ROW) == self.first_row)


def _rows_of_block(
    rows: pl.LazyFrame, *, granularity: Granularity, shard_id: int, first_row: int
) -> pl.Series:
    in_shard = rows.filter((pl.col(SHARD_ID) == shard_id) & pl.col(ELIGIBLE))
    return in_shard.filter(_first_row(granularity) == first_row).select(ROW).collect()[ROW]


def _mass(blocks: pl.DataFrame) -> float | None:
    """The sum of the losses of the blocks' rows; None where there are none."""
    if LOSS not in blocks.columns:
        return None
    loss = pl.col(LOSS).cast(pl.Float64)
    return float(blocks.select((loss * pl.col(_ROWS).cast(pl.Float64)).sum()).item())


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole is not None and whole > 0 else None
