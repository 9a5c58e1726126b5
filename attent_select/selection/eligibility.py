"""Which rows may be selected, and how many there are.

The conditions on a row, and the one pass that counts them.
"""

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS, NUM_UNITS, ROW, SHARD_ID, VISITS
from attent_select.selection.chunks import Chunks, Mapped, Then, Whole
from attent_select.selection.composition import Composition
from attent_select.selection.radix import COST, STRATUM
from attent_select.stats.histogram import Histogram, LossDistribution, count_buckets, loss_bucket
from attent_select.strategy import Strategy

ELIGIBLE: Final = "__eligible"
LABEL: Final = "__label"

_EVERYTHING: Final = "everything"
_NULL: Final = "null"
_BUCKET: Final = "__bucket"
_COUNT: Final = "__count"
_MAX_STRATA: Final = 10_000
# A subquery could read any file of the machine (`IN (SELECT … FROM read_parquet('…'))`).
_SUBQUERY: Final = re.compile(r"\b(select|from|table|values|with)\b", re.IGNORECASE)
# What polars calls the parts of an expression that look at several rows. (`is_row_separable` takes
# `loss > avg(loss)` for a condition on one row, and fails on `loss > 0.5`.)
_OF_SEVERAL_ROWS: Final = frozenset({"Agg", "Over", "Len", "Quantile", "Correlation", "Explode"})


@dataclass(frozen=True)
class Census:
    """One pass over the catalog.

    `eligible` is stratum → what its rows cost in all (samples, or units); `losses` how the losses
    of the eligible rows lie, where somebody needs to know.
    """

    total: int
    num_eligible: int
    eligible: dict[str, int]
    losses: LossDistribution | None

    @cached_property
    def codes(self) -> dict[str, int]:
        """Stratum → its number, by name."""
        return {label: code for code, label in enumerate(sorted(self.eligible))}


def eligible_rows(
    losses: pl.LazyFrame | Chunks, *, strategy: Strategy, composition: Composition, in_units: bool
) -> Mapped:
    """`candidates` of the losses, after the guard.

    Raises:
        InputError: a column is missing, or of a wrong type, or `where` is not a condition.
    """
    chunks = Whole(losses) if isinstance(losses, pl.LazyFrame) else losses
    typed = functools.partial(
        candidates, strategy=strategy, composition=composition, in_units=in_units
    )
    kinds = chunks.frame().collect_schema()
    typed(pl.LazyFrame(schema=kinds))
    chunks = chunks.only(_needed(kinds, strategy, composition, in_units=in_units))
    if foreign := [name for name in (SHARD_ID, ROW) if kinds[name] != pl.UInt32]:
        _check_range(chunks, foreign)
    limit = None
    if composition.max_visits is not None:
        limit = _hard_limit(Mapped(chunks, typed), quantile=composition.hard_quantile)
    guard = functools.partial(_guarded, max_visits=composition.max_visits, limit=limit)
    return Mapped(chunks, Then(typed, guard))


def _needed(
    kinds: pl.Schema, strategy: Strategy, composition: Composition, *, in_units: bool
) -> list[str]:
    """The columns that `candidates` reads."""
    named = [SHARD_ID, ROW, *strategy.columns, *_extra(composition, in_units=in_units)]
    named += [composition.by] if composition.by else []
    if composition.where is not None:
        read = pl.sql_expr(composition.where).meta.root_names()
        named += [name for name in kinds if name in read]
    return list(dict.fromkeys(named))


def candidates(
    losses: pl.LazyFrame, *, strategy: Strategy, composition: Composition, in_units: bool
) -> pl.LazyFrame:
    """All rows with the columns that matter: ids, the strategy's, ELIGIBLE, COST u64, LABEL."""
    numbers = [*strategy.columns, *_extra(composition, in_units=in_units)]
    losses = _typed(losses, numbers, label=composition.by)
    # What a row is named by, and what a key is made of: without these it cannot be selected.
    condition = pl.col(SHARD_ID).is_not_null() & pl.col(ROW).is_not_null()
    for name in strategy.columns:
        condition = condition & _is_finite(name)
    if composition.where is not None:
        condition = condition & _condition(losses, composition.where)
    if in_units:  # what costs nobody knows how much fits into no budget
        condition = condition & pl.col(NUM_UNITS).is_not_null()
    cost = pl.col(NUM_UNITS).cast(pl.UInt64) if in_units else pl.lit(1, dtype=pl.UInt64)
    label = _label(composition.by) if composition.by else pl.lit(_EVERYTHING)
    needed = dict.fromkeys([SHARD_ID, ROW, *numbers])
    return losses.with_columns(
        condition.alias(ELIGIBLE), cost.alias(COST), label.alias(LABEL)
    ).select(*needed, ELIGIBLE, COST, LABEL)


def _label(column: str) -> pl.Expr:
    """A row's stratum: `null` without a value. Not for a text that says so, which gets quotes."""
    text = pl.col(column).cast(pl.String)
    is_null_in_words = text.str.strip_chars('"') == _NULL
    quoted = pl.concat_str(pl.lit('"'), text, pl.lit('"'))
    return pl.when(is_null_in_words).then(quoted).otherwise(text).fill_null(_NULL)


def _typed(losses: pl.LazyFrame, numbers: Sequence[str], *, label: str | None) -> pl.LazyFrame:
    """With ids u32 and the loss float32 (beyond its range: infinite), whoever wrote them."""
    kinds = losses.collect_schema()
    needed = [SHARD_ID, ROW, *numbers, *([label] if label else [])]
    if missing := [name for name in needed if name not in kinds]:
        raise InputError(f"no column {', '.join(missing)}: the losses have {', '.join(kinds)}")
    for name in (SHARD_ID, ROW):
        if not kinds[name].is_integer():
            raise InputError(f"the column {name} is {kinds[name]}, expected whole numbers")
    for name in numbers:
        if name.startswith("__"):
            raise InputError(f"the column {name}: such names are used while selecting, rename it")
        if not kinds[name].is_numeric():
            raise InputError(f"the column {name} is {kinds[name]}, expected numbers")
    if label and kinds[label].is_nested():
        raise InputError(f"the column {label} is {kinds[label]}, expected plain values")
    ids = [pl.col(name).cast(pl.UInt32) for name in (SHARD_ID, ROW) if kinds[name] != pl.UInt32]
    loss = [pl.col(LOSS).cast(pl.Float32)] if LOSS in numbers and kinds[LOSS] != pl.Float32 else []
    return losses.with_columns(*ids, *loss)


def _check_range(chunks: Chunks, ids: Sequence[str]) -> None:
    """One pass over ids of another type than ours."""
    found = pl.concat(chunks.run(functools.partial(_ends, ids=ids)))
    for name in ids:
        low, high = found[f"{name} low"].min(), found[f"{name} high"].max()
        if isinstance(low, int) and isinstance(high, int) and (low < 0 or high >= 1 << 32):
            raise InputError(f"the column {name} reaches from {low} to {high}, expected u32")


def _ends(rows: pl.LazyFrame, *, ids: Sequence[str]) -> pl.DataFrame:
    ends = [(pl.col(i).min().alias(f"{i} low"), pl.col(i).max().alias(f"{i} high")) for i in ids]
    return rows.select(end for pair in ends for end in pair).collect()


def _hard_limit(rows: Chunks, *, quantile: float) -> float | None:
    """The loss above which rows of many visits are dropped; None: nothing is."""
    losses = census(Mapped(rows, _with_finite_loss), with_losses=True).losses
    return losses.quantile(quantile) if losses is not None and losses.num_samples else None


def _with_finite_loss(rows: pl.LazyFrame) -> pl.LazyFrame:
    # A strategy that reads no loss can select rows without one.
    return rows.filter(_is_finite(LOSS))


def _is_finite(name: str) -> pl.Expr:
    # Five times as fast as `Expr.is_finite`. To polars NaN is larger than all other numbers.
    return pl.col(name).is_between(-math.inf, math.inf, closed="none").fill_null(False)


def _guarded(rows: pl.LazyFrame, *, max_visits: int | None, limit: float | None) -> pl.LazyFrame:
    """Without the rows that are still above `limit` after `max_visits` visits."""
    if limit is None:
        return rows
    worn = (pl.col(VISITS) >= max_visits) & (pl.col(LOSS) > limit)
    return rows.with_columns(pl.col(ELIGIBLE) & worn.not_().fill_null(True))


def census(
    rows: Chunks,
    *,
    with_losses: bool = False,
    with_costs: bool = False,
    with_strata: bool = False,
) -> Census:
    """Counts the rows of `candidates`, where asked with a histogram of the losses, with what the
    rows cost (otherwise 1 each), per stratum.
    """
    if with_strata:
        work = functools.partial(_tally_strata, with_losses=with_losses)
    else:
        work = functools.partial(_tally, with_losses=with_losses, with_costs=with_costs)
    total = 0
    costs: Counter[str] = Counter()
    histogram = Histogram()
    for chunk in rows.run(work):
        total += chunk.total
        costs.update(chunk.costs)
        histogram.add(chunk.buckets, chunk.counts)
        if len(costs) > _MAX_STRATA:
            raise InputError(f"by: more than {_MAX_STRATA} different values")
    return Census(
        total=total,
        num_eligible=histogram.num_samples,
        eligible=dict(costs),
        losses=histogram.distribution() if with_losses else None,
    )


@dataclass(frozen=True)
class _Tally:
    """Of one chunk: all rows, what the eligible ones cost per stratum, and how many (uint64[n])
    are in each bucket of the loss (uint32[n]; all in 0 unless the losses are asked for).
    """

    total: int
    costs: dict[str, int]
    buckets: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint64]


def _tally(rows: pl.LazyFrame, *, with_losses: bool, with_costs: bool) -> _Tally:
    """In one stratum: numpy counts ten times as fast as a group_by."""
    columns = [ELIGIBLE, *([LOSS] if with_losses else []), *([COST] if with_costs else [])]
    chunk = rows.select(columns).collect()
    chosen = chunk.filter(ELIGIBLE)
    cost = int(chosen[COST].sum()) if with_costs else len(chosen)
    if with_losses:
        buckets, counts = count_buckets(chosen[LOSS].to_numpy())
    else:
        buckets, counts = count_buckets(np.zeros(len(chosen), np.float32))
    return _Tally(len(chunk), {_EVERYTHING: cost} if len(chosen) else {}, buckets, counts)


def _tally_strata(rows: pl.LazyFrame, *, with_losses: bool) -> _Tally:
    group = loss_bucket(pl.col(LOSS)) if with_losses else pl.lit(0, dtype=pl.UInt32)
    counts = (
        rows.select(
            pl.when(ELIGIBLE).then(group).alias(_BUCKET),
            LABEL,
            # Counts are u64 sums: polars lengths are u32 and wrap beyond 2^32 rows.
            pl.lit(1, dtype=pl.UInt64).alias(_COUNT),
            COST,
        )
        .group_by(_BUCKET, LABEL)
        .agg(pl.col(_COUNT).sum(), pl.col(COST).sum())
        .collect()
    )
    chosen = counts.filter(pl.col(_BUCKET).is_not_null())
    costs = chosen.group_by(LABEL).agg(pl.col(COST).sum())
    return _Tally(
        total=int(counts[_COUNT].sum()),
        costs=dict(costs.iter_rows()),
        buckets=chosen[_BUCKET].to_numpy(),
        counts=chosen[_COUNT].to_numpy(),
    )


def with_strata(rows: pl.LazyFrame, codes: dict[str, int]) -> pl.LazyFrame:
    """The eligible rows, with STRATUM u32 instead of LABEL."""
    eligible = rows.filter(ELIGIBLE)
    if len(codes) == 1:
        return eligible.with_columns(pl.lit(0, dtype=pl.UInt32).alias(STRATUM)).drop(LABEL)
    # By an Enum, not `replace_strict`: that one collects its input.
    code = pl.col(LABEL).cast(pl.Enum(list(codes))).to_physical().cast(pl.UInt32)
    return eligible.with_columns(code.alias(STRATUM)).drop(LABEL)


def _extra(composition: Composition, *, in_units: bool) -> list[str]:
    """Columns of numbers that are read beside the strategy's."""
    extra = [VISITS, LOSS] if composition.max_visits is not None else []
    return [*extra, NUM_UNITS] if in_units else extra


def _condition(losses: pl.LazyFrame, where: str) -> pl.Expr:
    # Words inside plain quotes are harmless; where the quoting is not plain, every word counts.
    plain = not re.search(r"[\\\"$]|--|/\*", where)
    if word := _SUBQUERY.search(re.sub(r"'[^']*'", "''", where) if plain else where):
        raise InputError(f"where: {word.group()!r} is not allowed, only a condition on one row")
    try:
        condition = pl.sql_expr(where)
        # On no rows: what does not resolve or compare is found now.
        empty = pl.LazyFrame(schema=losses.collect_schema())
        kind = empty.select(condition.alias(ELIGIBLE)).collect().schema[ELIGIBLE]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"where: {where!r} is not a condition: {reason}") from error
    if kind != pl.Boolean:
        raise InputError(f"where: {where!r} gives {kind}, expected a condition (true or false)")
    if not _OF_SEVERAL_ROWS.isdisjoint(_words(json.loads(condition.meta.serialize(format="json")))):
        raise InputError(f"where: {where!r} compares rows with each other; only one row at a time")
    return condition.fill_null(False)


def _words(tree: Any) -> Iterator[str]:
    """The names in a serialised expression, but for those of columns and what stands in values."""
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield name
            if name not in ("Column", "Literal"):
                yield from _words(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _words(inner)
    elif isinstance(tree, str):
        yield tree
