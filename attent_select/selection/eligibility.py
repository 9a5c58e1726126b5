"""Eligibility: which rows may be selected, by their columns, a `where` condition, and guards."""

import functools
import math
from collections.abc import Sequence

import polars as pl

from attent_select import sql_expression
from attent_select.errors import InputError
from attent_select.sample_ids import check_unique
from attent_select.schema import LOSS, NUM_UNITS, ROW, SHARD_ID, VISITS
from attent_select.selection.chunks import Chunks, FrameChunks, FunctionChain, MappedChunks
from attent_select.selection.columns import (
    COST,
    ELIGIBLE,
    EXPLORED,
    HAS_IDS,
    INCLUDED,
    LABEL,
    PREFIX,
)
from attent_select.selection.composition import Composition
from attent_select.selection.counting import count_rows
from attent_select.selection.strata import stratum_label
from attent_select.strategy import EXPRESSION, Strategy, expression_of, key_columns


def eligible_rows(
    losses: pl.LazyFrame | Chunks, *, strategy: Strategy, composition: Composition, in_units: bool
) -> MappedChunks:
    """Return all rows with ids, the strategy's columns, ELIGIBLE, COST u64 and LABEL.

    The samples of a LazyFrame, which may be of any origin, are checked for duplicates.

    Raises:
        InputError: a column is missing or has the wrong type, `where` is not a condition, or a
            sample occurs twice.
    """
    chunks = FrameChunks(losses) if isinstance(losses, pl.LazyFrame) else losses
    mark = functools.partial(
        _mark_eligible, strategy=strategy, composition=composition, in_units=in_units
    )
    schema = chunks.frame().collect_schema()
    mark(pl.LazyFrame(schema=schema))  # check the columns before anything is read
    chunks = chunks.only(_columns_to_read(schema, strategy, composition, in_units=in_units))
    if other_ids := [name for name in (SHARD_ID, ROW) if schema[name] != pl.UInt32]:
        _check_id_range(chunks, other_ids)
    if isinstance(losses, pl.LazyFrame):
        check_unique(losses)
    max_loss = None
    if composition.max_visits is not None:
        max_loss = _hard_threshold(MappedChunks(chunks, mark), quantile=composition.hard_quantile)
    guard = functools.partial(_guard, max_visits=composition.max_visits, max_loss=max_loss)
    return MappedChunks(chunks, FunctionChain(mark, guard))


def _columns_to_read(
    schema: pl.Schema, strategy: Strategy, composition: Composition, *, in_units: bool
) -> list[str]:
    numbers = _numeric_columns(strategy, composition, in_units=in_units)
    columns = [SHARD_ID, ROW, *(name for name in numbers if name in schema)]
    if EXPRESSION not in schema and expression_of(strategy) is not None:
        columns += strategy.columns
    columns += [composition.by] if composition.by else []
    columns += [composition.rank_column] if composition.rank_column else []
    if composition.where is not None:
        columns += sql_expression.columns_of(composition.where, what="where")
    return list(dict.fromkeys(columns))


def _with_expression(losses: pl.LazyFrame, strategy: Strategy) -> pl.LazyFrame:
    """Add EXPRESSION where the strategy reads one; blocks have its mean already."""
    schema = losses.collect_schema()
    text = expression_of(strategy)
    if text is None or EXPRESSION in schema:
        return losses
    value = sql_expression.number(text, schema, what="key")
    return losses.with_columns(value.alias(EXPRESSION))


def _numeric_columns(
    strategy: Strategy, composition: Composition, *, in_units: bool
) -> tuple[str, ...]:
    guard_columns = (VISITS, LOSS) if composition.max_visits is not None else ()
    return (*key_columns(strategy), *guard_columns, *((NUM_UNITS,) if in_units else ()))


def _mark_eligible(
    losses: pl.LazyFrame, *, strategy: Strategy, composition: Composition, in_units: bool
) -> pl.LazyFrame:
    losses = _with_expression(losses, strategy)
    numbers = _numeric_columns(strategy, composition, in_units=in_units)
    losses = _cast_columns(losses, numbers, composition)
    schema = losses.collect_schema()
    # Rows without an id or without a value for the key cannot be selected.
    condition = pl.lit(value=True)
    if HAS_IDS not in schema:
        condition = pl.col(SHARD_ID).is_not_null() & pl.col(ROW).is_not_null()
    for name in key_columns(strategy):
        condition = condition & _is_finite(name)
    if composition.where is not None:
        condition = condition & sql_expression.condition(composition.where, schema, what="where")
    if composition.rank_column is not None:
        condition = condition & (pl.col(composition.rank_column).fill_null(0) == 0)
    if in_units:  # a row of unknown cost fits into no budget
        condition = condition & pl.col(NUM_UNITS).is_not_null()
    cost = pl.col(NUM_UNITS).cast(pl.UInt64) if in_units else pl.lit(1, dtype=pl.UInt64)
    marks = [name for name in (INCLUDED, EXPLORED) if name in schema]
    columns = dict.fromkeys([SHARD_ID, ROW, *numbers, *marks])
    return losses.with_columns(
        condition.alias(ELIGIBLE), cost.alias(COST), stratum_label(composition.by).alias(LABEL)
    ).select(*columns, ELIGIBLE, COST, LABEL)


def _cast_columns(
    losses: pl.LazyFrame, numbers: Sequence[str], composition: Composition
) -> pl.LazyFrame:
    """Check the columns; cast ids to u32 and the loss to float32 (infinite beyond its range)."""
    schema = losses.collect_schema()
    label, rank = composition.by, composition.rank_column
    others = [name for name in (label, rank) if name is not None]
    required = [SHARD_ID, ROW, *numbers, *others]
    if missing := [name for name in required if name not in schema]:
        raise InputError(
            f"missing column {', '.join(missing)}: the losses have {', '.join(schema)}"
        )
    for name in (SHARD_ID, ROW):
        if not schema[name].is_integer():
            raise InputError(f"the column {name} is {schema[name]}, expected integers")
    for name in numbers:
        if name.startswith(PREFIX) and name != EXPRESSION:
            raise InputError(f"the column {name}: names with {PREFIX} are reserved, rename it")
        if not schema[name].is_numeric():
            raise InputError(f"the column {name} is {schema[name]}, expected numbers")
    if label and schema[label].is_nested():
        raise InputError(f"the column {label} is {schema[label]}, expected plain values")
    ids = [pl.col(name).cast(pl.UInt32) for name in (SHARD_ID, ROW) if schema[name] != pl.UInt32]
    has_other_loss = LOSS in numbers and schema[LOSS] != pl.Float32
    return losses.with_columns(*ids, *([pl.col(LOSS).cast(pl.Float32)] if has_other_loss else []))


def _check_id_range(chunks: Chunks, ids: Sequence[str]) -> None:
    """Check in one pass that ids of another type are valid u32."""
    bounds = pl.concat(chunks.run(functools.partial(_id_bounds, ids=ids)))
    for name in ids:
        low, high = bounds[f"{name} low"].min(), bounds[f"{name} high"].max()
        if isinstance(low, int) and isinstance(high, int) and (low < 0 or high >= 1 << 32):
            raise InputError(f"the column {name} has values from {low} to {high}, expected u32")


def _id_bounds(rows: pl.LazyFrame, *, ids: Sequence[str]) -> pl.DataFrame:
    low = [pl.col(name).min().alias(f"{name} low") for name in ids]
    high = [pl.col(name).max().alias(f"{name} high") for name in ids]
    return rows.select(*low, *high).collect()


def _hard_threshold(rows: Chunks, *, quantile: float) -> float | None:
    """Return the loss above which the guard excludes rows; None if there are no losses."""
    losses = count_rows(MappedChunks(rows, _with_finite_loss), with_losses=True).losses
    return losses.quantile(quantile) if losses is not None and losses.num_samples else None


def _with_finite_loss(rows: pl.LazyFrame) -> pl.LazyFrame:
    # A strategy that does not read the loss can select rows without one.
    return rows.filter(_is_finite(LOSS))


def _is_finite(name: str) -> pl.Expr:
    # Five times as fast as `Expr.is_finite`. polars sorts NaN above all other numbers.
    return pl.col(name).is_between(-math.inf, math.inf, closed="none").fill_null(False)


def _guard(rows: pl.LazyFrame, *, max_visits: int | None, max_loss: float | None) -> pl.LazyFrame:
    """Exclude rows whose loss exceeds `max_loss` after `max_visits` visits."""
    if max_loss is None:
        return rows
    still_hard = (pl.col(VISITS) >= max_visits) & (pl.col(LOSS) > max_loss)
    return rows.with_columns(pl.col(ELIGIBLE) & still_hard.not_().fill_null(True))
