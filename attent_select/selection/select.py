"""select(): from the loss catalog to the teaching subset, exactly as many rows as asked for.

The order of things around one strategy: budget, quotas, the cut, exploration, probabilities,
weights.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import INDEX, PROBABILITY, ROW, SHARD_ID, WEIGHT
from attent_select.selection.chunks import Chunks, Mapped, Whole
from attent_select.selection.composition import Composition
from attent_select.selection.eligibility import ELIGIBLE, Census, census, eligible_rows, with_strata
from attent_select.selection.inclusion import Budget, Picked, Sample, pick
from attent_select.selection.quotas import allocate
from attent_select.selection.top_m import KEY, check_enough
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from attent_select.strategy import Candidates, Strategy

# No weight is larger than the inverse of this.
_MIN_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Preview:
    """What is known of a catalog without scanning it: makes a selection faster, never different.

    Attributes:
        total: rows of the catalog.
        rows: some of them, from many places, with the catalog's columns; a million are plenty.
    """

    total: int
    rows: pl.LazyFrame


@dataclass(frozen=True)
class Selection:
    """A teaching subset.

    Attributes:
        chunks: schema `INDEX`, in the chunks and the order of the input. Lazy: the last scan.
        num_samples: the rows selected.
        total: rows of the catalog.
        eligible: rows that could have been selected; the others have no finite loss, or a condition
            excludes them.
        threshold: the smallest key that the strategy selected (for `hard` a loss in nats), None if
            it selected nothing.
        first_excluded: (shard_id, row) of the first row beyond the budget; None where there is
            none, or one for each of several strata.
        picked: the same rows with the columns that the strategy read, before they are an index;
            None where nothing is selected.
    """

    chunks: Chunks
    num_samples: int
    total: int
    eligible: int
    threshold: float | None
    first_excluded: tuple[int, int] | None = None
    picked: Chunks | None = None

    @property
    def rows(self) -> pl.LazyFrame:
        """All chunks in one."""
        return self.chunks.frame()

    def frames(self) -> Iterable[pl.DataFrame]:
        """The rows in order, as they are found."""
        return self.chunks.run(_collected)


def _collected(rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.collect()


def num_samples_of(ratio: float, *, total: int) -> int:
    """How many of `total` samples a ratio in (0, 1] stands for: rounded half up, at least 1."""
    if not 0 < ratio <= 1:
        raise InputError(f"ratio: {ratio} is outside (0, 1]")
    return min(total, max(1, math.floor(ratio * total + 0.5)))


def select(
    losses: pl.LazyFrame | Chunks,
    *,
    strategy: Strategy,
    num_samples: int | None = None,
    ratio: float | None = None,
    num_units: int | None = None,
    seed: int = 0,
    round_number: int = 0,
    round_steps: Sequence[int] = (),
    composition: Composition | None = None,
    preview: Preview | None = None,
) -> Selection:
    """The teaching subset: the rows with the largest keys of `strategy`, as many as asked for.

    Ties are broken by sample_key. The same rows come out whatever the number of parts, threads or
    machines, in memory that does not grow with the catalog or with the subset.

    Args:
        losses: one row per sample with shard_id u32, row u32, and loss f32 (nats) unless the
            strategy needs none; the columns that `composition` names may stand beside them. With
            `Chunks` the passes run where the chunks are.
        strategy: from `attent_select.strategies`, or anything with that protocol.
        num_samples: exactly this many samples. Give one of `num_samples`, `ratio`, `num_units`.
        ratio: num_samples as a share of all rows, in (0, 1].
        num_units: as many samples as fit into this many units, in the order of their keys.
        seed: of the run.
        round_number: each round draws anew.
        round_steps: optimizer steps at which the rounds so far began, the present one last, for
            strategies that ask how old a loss is.
        composition: conditions, quotas, exploration, guards, weights.
        preview: saves passes over the catalog.

    Raises:
        InputError: a column is missing, a condition does not parse, a quota names an unknown
            stratum, or fewer rows are eligible than asked for.
    """
    request = _Request(
        strategy,
        composition or Composition(),
        seed,
        round_number,
        tuple(round_steps),
        in_units=num_units is not None,
    )
    rows = eligible_rows(
        losses, strategy=strategy, composition=request.composition, in_units=request.in_units
    )
    counted = request.census(rows) if preview is None or request.needs_census else None
    total = counted.total if counted else preview.total if preview else 0
    spend = _possible(_spend(num_samples, ratio, num_units, total=total), request, counted)
    if not spend:
        eligible = counted.num_eligible if counted else total
        return Selection(Whole(pl.LazyFrame(schema=INDEX)), 0, total, eligible, None)
    picked = _picked(rows, request, spend, total=total, counted=counted, preview=preview)
    return Selection(
        chunks=index_rows(picked.rows, weights=request.composition.weights),
        num_samples=spend if not request.in_units else num_rows(picked.rows),
        total=total,
        eligible=counted.num_eligible if counted else picked.available[0],
        threshold=picked.threshold,
        first_excluded=_first_excluded(picked),
        picked=picked.rows,
    )


@dataclass(frozen=True)
class _Request:
    strategy: Strategy
    composition: Composition
    seed: int
    round_number: int
    round_steps: tuple[int, ...]
    in_units: bool

    @property
    def is_plain(self) -> bool:
        """One stratum, counted in samples: what some rows to guess from can help."""
        return not (self.in_units or self.composition.by)

    @property
    def needs_census(self) -> bool:
        return self.strategy.needs_distribution or not self.is_plain

    def census(self, rows: Chunks) -> Census:
        return census(
            rows,
            with_losses=self.strategy.needs_distribution,
            with_costs=self.in_units,
            with_strata=self.composition.by is not None,
        )

    def stream(self, purpose: Purpose) -> int:
        return stream_key(self.seed, purpose, self.round_number)


def _spend(
    num_samples: int | None, ratio: float | None, num_units: int | None, *, total: int
) -> int:
    if sum(budget is not None for budget in (num_samples, ratio, num_units)) != 1:
        raise InputError("give one of num_samples, ratio and num_units")
    if ratio is not None:
        return num_samples_of(ratio, total=total)
    spend = num_samples if num_samples is not None else num_units
    assert spend is not None
    if spend < 0:
        raise InputError(f"the budget: {spend} is negative")
    return spend


def _possible(spend: int, request: _Request, counted: Census | None) -> int:
    """What can be spent. Raises `InputError` where fewer samples are eligible than asked for."""
    if counted and request.in_units:
        # As many samples as fit: a budget beyond all units selects everything.
        return min(spend, sum(counted.eligible.values()))
    if counted:
        check_enough(counted.num_eligible, num_selected=spend)
    return spend


def _picked(
    rows: Mapped,
    request: _Request,
    spend: int,
    *,
    total: int,
    counted: Census | None,
    preview: Preview | None,
) -> Picked:
    draws = Candidates(
        losses=counted.losses if counted else None,
        stream=request.stream(Purpose.SELECT),
        round_steps=request.round_steps,
    )
    codes = counted.codes if counted else {"": 0}
    with_key = functools.partial(_keyed, codes=codes, key=request.strategy.key(draws).alias(KEY))
    sample = None
    if preview is not None and request.is_plain:
        some = rows.transform(preview.rows).collect()
        num_eligible = int(some[ELIGIBLE].sum())
        stands_for = counted.num_eligible if counted else total * num_eligible // max(1, len(some))
        sample = Sample(with_key(some.lazy()).collect(), stands_for)
    return pick(
        Mapped(rows, with_key),
        _budget(spend, counted, request),
        strategy=request.strategy,
        candidates=draws,
        explore_key=sample_uniform(request.stream(Purpose.EXPLORE)),
        sample=sample,
    )


def _keyed(rows: pl.LazyFrame, *, codes: dict[str, int], key: pl.Expr) -> pl.LazyFrame:
    """The eligible rows with STRATUM and KEY."""
    return with_strata(rows, codes).with_columns(key)


def _budget(spend: int, counted: Census | None, request: _Request) -> Budget:
    composition = request.composition
    if counted is None:
        return Budget({0: spend}, None, composition.explore)
    available = {counted.codes[name]: cost for name, cost in counted.eligible.items()}
    if composition.by is None:
        return Budget({0: spend}, available, composition.explore)
    got = allocate(spend, available=counted.eligible, quotas=composition.quotas)
    by_code = {counted.codes[name]: cost for name, cost in got.items()}
    return Budget(by_code, available, composition.explore)


def _first_excluded(picked: Picked) -> tuple[int, int] | None:
    if len(picked.cut_of) != 1:
        return None
    (cut,) = picked.cut_of.values()
    return divmod(cut.first_excluded.sample_key, 1 << 32) if cut.first_excluded else None


def index_rows(rows: Chunks, *, weights: str) -> Chunks:
    """The picked rows in the schema of an index."""
    weight = pl.lit(1.0)
    if weights == "inverse_probability":
        inverse = 1.0 / pl.col(PROBABILITY).clip(_MIN_PROBABILITY, 1.0)
        weight = inverse / _mean(rows, inverse)
    return Mapped(rows, functools.partial(_as_index, weight=weight))


def _as_index(rows: pl.LazyFrame, *, weight: pl.Expr) -> pl.LazyFrame:
    return rows.select(
        pl.col(SHARD_ID).cast(INDEX[SHARD_ID]),
        pl.col(ROW).cast(INDEX[ROW]),
        weight.cast(pl.Float32).alias(WEIGHT),
        pl.col(PROBABILITY).cast(pl.Float32),
    )


def _mean(rows: Chunks, value: pl.Expr) -> float:
    """The mean of a positive number, the same to the last bit however the rows are cut."""
    sums = pl.concat(rows.run(functools.partial(_sums, value=value))).sum()
    return float(sums["sum"][0] / 2.0**16 / max(1, sums["count"][0]))


def _sums(rows: pl.LazyFrame, *, value: pl.Expr) -> pl.DataFrame:
    # Whole multiples of 2^-16: sums of integers have no order.
    whole = (value * 2.0**16).round().cast(pl.UInt64)
    one = pl.col(ROW).is_not_null().cast(pl.UInt64)
    return rows.select(whole.sum().alias("sum"), one.sum().alias("count")).collect()


def num_rows(rows: Chunks) -> int:
    """How many rows there are."""
    return sum(rows.run(_num_rows))


def _num_rows(rows: pl.LazyFrame) -> int:
    # Not `pl.len()`: it is u32 and wraps beyond 2^32.
    one = pl.col(ROW).is_not_null().cast(pl.UInt64)
    return int(rows.select(one.sum()).collect().item())
