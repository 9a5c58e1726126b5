"""`select()`: from the loss catalog to the teaching subset, with exactly the requested size.

Order of the steps: eligibility, counts, budget and quotas, edge, exploration, probabilities,
weights.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from attent_select.errors import InputError
from attent_select.html_cards import card, share_bar
from attent_select.plugins import load_plugin
from attent_select.schema import INDEX
from attent_select.selection.chunks import (
    Chunks,
    FrameChunks,
    FunctionChain,
    MappedChunks,
    Transform,
)
from attent_select.selection.columns import ELIGIBLE, HAS_IDS, KEY
from attent_select.selection.composition import Composition
from attent_select.selection.counting import RowCounts, count_rows, require_rows
from attent_select.selection.eligibility import eligible_rows
from attent_select.selection.inclusion import Allocation, IncludedRows, PilotRows, include_rows
from attent_select.selection.quotas import allocate
from attent_select.selection.strata import with_stratum_codes
from attent_select.selection.weights import index_rows, num_rows
from attent_select.stats.gumbel import NoisyKeys
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from attent_select.strategy import Candidates, HasNoisyLogit, Strategy


@dataclass(frozen=True)
class Preview:
    """Some rows of a catalog, known without a scan: makes a selection faster, never different.

    Attributes:
        total: number of rows of the catalog.
        rows: some of them, from many places, with the catalog's columns; a million are plenty.
    """

    total: int
    rows: pl.LazyFrame


@dataclass(frozen=True)
class Selection:
    """A teaching subset.

    Attributes:
        chunks: selected rows (schema `INDEX`), in the chunks and the order of the input. Lazy: each
            use scans the catalog once.
        num_samples: number of selected rows.
        total: number of rows of the catalog.
        eligible: number of rows that could be selected: they have a finite loss and fulfil all
            conditions.
        threshold: smallest key that the strategy selected (for `hard` a loss in nats), None if it
            selected nothing.
        first_excluded: (shard_id, row) of the first row beyond the budget; None if there is none,
            or if there are several strata.
        catalog_rows: the same rows with the columns that the strategy read instead of weights; None
            if nothing is selected.
    """

    chunks: Chunks = field(repr=False)
    num_samples: int
    total: int
    eligible: int
    threshold: float | None
    first_excluded: tuple[int, int] | None = None
    catalog_rows: Chunks | None = field(default=None, repr=False)

    def _repr_html_(self) -> str:
        facts = {
            "samples": self.num_samples,
            "eligible": self.eligible,
            "samples of the catalog": self.total,
            "threshold": self.threshold,
        }
        total = max(1, self.total)
        shares = {"selected": self.num_samples / total, "eligible": self.eligible / total}
        return card("Selection", facts, plot=share_bar(shares))

    @property
    def rows(self) -> pl.LazyFrame:
        """All selected rows as one LazyFrame."""
        return self.chunks.frame()

    def frames(self) -> Iterable[pl.DataFrame]:
        """Yield the selected rows in order, one chunk at a time."""
        return self.chunks.run(_collect)


def _collect(rows: pl.LazyFrame) -> pl.DataFrame:
    # A chunk is small; the streaming engine would split it further.
    return rows.collect(engine="in-memory")


def num_samples_of(ratio: float, *, total: int) -> int:
    """Return the samples that a ratio in (0, 1] of `total` means: rounded half up, at least 1."""
    if not 0 < ratio <= 1:
        raise InputError(f"ratio: {ratio} is outside (0, 1]")
    return min(total, max(1, math.floor(ratio * total + 0.5)))


def select(
    losses: pl.DataFrame | pl.LazyFrame | Chunks,
    *,
    strategy: Strategy | str,
    num_samples: int | None = None,
    ratio: float | None = None,
    num_units: int | None = None,
    seed: int = 0,
    round_number: int = 0,
    round_steps: Sequence[int] = (),
    composition: Composition | None = None,
    preview: Preview | None = None,
) -> Selection:
    """Select the teaching subset: the rows with the largest keys of `strategy`.

    Ties are broken by sample_key. The result is the same for any number of parts, threads or
    machines, and memory does not grow with the catalog or the subset.

    Args:
        losses: one row per sample with shard_id u32, row u32, and loss f32 (nats) unless the
            strategy needs none, plus the columns that `composition` names. With `Chunks` the passes
            run where the chunks are.
        strategy: name of a strategy, with its defaults, or any object with that protocol.
        num_samples: exactly this many samples. Pass one of `num_samples`, `ratio`, `num_units`.
        ratio: num_samples as a share of all rows, in (0, 1].
        num_units: budget in units: samples in the order of their keys until it is used up.
        seed: seed of the run.
        round_number: changes the random draw.
        round_steps: optimizer steps at which the rounds so far began, the current round last; for
            strategies that use the age of a loss.
        composition: conditions, quotas, exploration, guards, weights.
        preview: saves passes over the catalog.

    Raises:
        InputError: a column is missing, a condition does not parse, a quota names an unknown
            stratum, fewer rows are eligible than requested, or a sample of a frame occurs twice.
    """
    losses = losses.lazy() if isinstance(losses, pl.DataFrame) else losses
    strategy = _strategy_named(strategy) if isinstance(strategy, str) else strategy
    composition = (composition or Composition()).for_strategy(strategy)
    in_units = num_units is not None
    request = _Request(strategy, composition, seed, round_number, tuple(round_steps), in_units)
    rows = eligible_rows(losses, strategy=strategy, composition=composition, in_units=in_units)
    counts = request.count(rows) if preview is None or request.needs_counts else None
    total = counts.total if counts else preview.total if preview else 0
    budget = _budget(num_samples, ratio, num_units, total=total, counts=counts)
    if not budget:
        eligible = counts.num_eligible if counts else total
        return Selection(FrameChunks(pl.LazyFrame(schema=INDEX)), 0, total, eligible, None)
    included = _include(rows, request, budget, counts=counts, preview=preview)
    return Selection(
        chunks=index_rows(included.ids, weights=composition.weights),
        num_samples=budget if not in_units else num_rows(included.ids),
        total=total,
        eligible=counts.num_eligible if counts else included.available[0],
        threshold=included.threshold,
        first_excluded=_first_excluded(included),
        catalog_rows=included.rows,
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
    def can_use_pilot(self) -> bool:
        """Whether a preview helps: one stratum, with a budget in samples."""
        return not (self.in_units or self.composition.by)

    @property
    def needs_counts(self) -> bool:
        return self.strategy.needs_distribution or not self.can_use_pilot

    def count(self, rows: Chunks) -> RowCounts:
        return count_rows(
            rows,
            with_losses=self.strategy.needs_distribution,
            with_costs=self.in_units,
            with_strata=self.composition.by is not None,
        )

    def needs_pilot(self, noisy: NoisyKeys | None) -> bool:
        """Whether a preview helps, where the distribution of noisy keys is known or not."""
        return self.can_use_pilot and (noisy is None or bool(self.composition.explore))

    def noisy_keys(self, candidates: Candidates) -> NoisyKeys | None:
        """Return the keys, if they are noisy logits of one stratum, with a budget in samples."""
        if not (
            self.can_use_pilot and candidates.losses and isinstance(self.strategy, HasNoisyLogit)
        ):
            return None
        return NoisyKeys(self.strategy.noisy_logit(candidates), candidates.losses)

    def stream(self, purpose: Purpose) -> int:
        return stream_key(self.seed, purpose, self.round_number)


def _strategy_named(name: str) -> Strategy:
    strategy: Strategy = load_plugin("attent_select.strategies", name)()
    return strategy


def _budget(
    num_samples: int | None,
    ratio: float | None,
    num_units: int | None,
    *,
    total: int,
    counts: RowCounts | None,
) -> int:
    """Return the budget in samples, or in units, of which it is at most what is available.

    Raises:
        InputError: not exactly one budget is given, or it is negative.
        TooFewError: fewer samples are eligible than the budget.
    """
    if sum(budget is not None for budget in (num_samples, ratio, num_units)) != 1:
        raise InputError("expected exactly one of num_samples, ratio and num_units")
    if ratio is not None:
        num_samples = num_samples_of(ratio, total=total)
    budget = num_samples if num_samples is not None else num_units
    assert budget is not None
    if budget < 0:
        raise InputError(f"the budget must not be negative, got {budget}")
    if counts and num_units is not None:
        return min(budget, sum(counts.available.values()))
    if counts:
        require_rows(budget, eligible=counts.num_eligible)
    return budget


def _include(
    rows: MappedChunks,
    request: _Request,
    budget: int,
    *,
    counts: RowCounts | None,
    preview: Preview | None,
) -> IncludedRows:
    candidates = Candidates(
        losses=counts.losses if counts else None,
        stream=request.stream(Purpose.SELECT),
        round_steps=request.round_steps,
    )
    codes = counts.codes if counts else {"": 0}
    key = request.strategy.key(candidates).alias(KEY)
    with_key = functools.partial(_with_key, codes=codes, key=key)
    noisy = request.noisy_keys(candidates)
    pilot = None
    if preview is not None and request.needs_pilot(noisy):
        pilot = _pilot_rows(preview, rows, request, with_key=with_key, counts=counts)
    return include_rows(
        MappedChunks(rows.chunks, FunctionChain(rows.transform, with_key)),
        _allocation(budget, counts, request.composition),
        strategy=request.strategy,
        candidates=candidates,
        explore_key=sample_uniform(request.stream(Purpose.EXPLORE)),
        guess=noisy if noisy is not None or pilot is None else pilot.keys,
        pilot=pilot,
    )


def _pilot_rows(
    preview: Preview,
    rows: MappedChunks,
    request: _Request,
    *,
    with_key: Transform,
    counts: RowCounts | None,
) -> PilotRows:
    """Return the rows of a preview with their keys, and what exploration reads."""
    some = preview.rows.with_columns(pl.lit(value=True).alias(HAS_IDS))
    columns = pl.all() if request.composition.explore else pl.col(KEY, ELIGIBLE)
    pilot = with_key(rows.transform(some)).select(columns).collect()
    share = int(pilot[ELIGIBLE].sum()) / max(1, len(pilot))
    return PilotRows(pilot, counts.num_eligible if counts else int(preview.total * share))


def _with_key(rows: pl.LazyFrame, *, codes: dict[str, int], key: pl.Expr) -> pl.LazyFrame:
    """Return the rows with STRATUM and KEY."""
    return with_stratum_codes(rows, codes).with_columns(key)


def _allocation(budget: int, counts: RowCounts | None, composition: Composition) -> Allocation:
    explore = composition.explore or 0.0
    if counts is None:
        return Allocation({0: budget}, None, explore)
    available = {counts.codes[name]: cost for name, cost in counts.available.items()}
    if composition.by is None:
        return Allocation({0: budget}, available, explore)
    by_name = allocate(budget, available=counts.available, quotas=composition.quotas)
    budgets = {counts.codes[name]: cost for name, cost in by_name.items()}
    return Allocation(budgets, available, explore)


def _first_excluded(included: IncludedRows) -> tuple[int, int] | None:
    if len(included.edges) != 1:
        return None
    (edge,) = included.edges.values()
    return divmod(edge.first_excluded.sample_key, 1 << 32) if edge.first_excluded else None
