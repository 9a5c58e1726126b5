"""Counting of eligible rows: one pass for totals, costs per stratum, and the loss histogram."""

import functools
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError, TooFewError
from attent_select.sample_ids import Runs
from attent_select.schema import LOSS
from attent_select.selection import strata
from attent_select.selection.chunks import Chunks, run_with_runs
from attent_select.selection.columns import COST, ELIGIBLE, LABEL
from attent_select.stats.histogram import Histogram, LossDistribution, count_buckets, loss_bucket

_BUCKET: Final = "__bucket"
_COUNT: Final = "__count"


@dataclass(frozen=True)
class RowCounts:
    """Counts of the rows of a catalog.

    Attributes:
        total: all rows.
        num_eligible: eligible rows.
        available: stratum → total cost of its eligible rows, in samples or units.
        losses: distribution of the eligible losses, if requested.
    """

    total: int
    num_eligible: int
    available: dict[str, int]
    losses: LossDistribution | None

    @cached_property
    def codes(self) -> dict[str, int]:
        """Stratum → code, in the order of their names."""
        return {label: code for code, label in enumerate(sorted(self.available))}


def count_rows(
    rows: Chunks,
    *,
    with_losses: bool = False,
    with_costs: bool = False,
    with_strata: bool = False,
) -> RowCounts:
    """Count the rows of `eligible_rows` in one pass.

    Args:
        rows: rows with ELIGIBLE, LOSS, COST and LABEL.
        with_losses: also build the histogram of the losses.
        with_costs: sum COST; otherwise each row costs 1. Implied by `with_strata`.
        with_strata: count per stratum.

    Raises:
        InputError: there are more than `MAX_STRATA` strata.
    """
    if with_strata:
        work = functools.partial(_count_by_stratum, with_losses=with_losses)
    else:
        work = functools.partial(_count_chunk, with_losses=with_losses, with_costs=with_costs)
    total = 0
    costs: Counter[str] = Counter()
    histogram = Histogram()
    for chunk in run_with_runs(rows, work):
        total += chunk.total
        costs.update(chunk.costs)
        histogram.add(chunk.buckets, chunk.counts)
        if len(costs) > strata.MAX_STRATA:
            raise InputError(f"by: more than {strata.MAX_STRATA} different values")
    return RowCounts(
        total=total,
        num_eligible=histogram.num_samples,
        available=dict(costs),
        losses=histogram.distribution() if with_losses else None,
    )


def require_rows(num_samples: int, *, eligible: int) -> None:
    """Check that enough rows are eligible.

    Raises:
        TooFewError: fewer than `num_samples` rows are eligible.
    """
    if eligible < num_samples:
        raise TooFewError(
            f"{num_samples} samples requested, but only {eligible} are eligible: request at most "
            f"{eligible}",
            eligible,
        )


@dataclass(frozen=True)
class _ChunkCounts:
    """Counts of one chunk.

    `costs` is stratum → cost of its eligible rows. `counts` uint64[n] is the number of eligible
    rows in each loss bucket `buckets` uint32[n]; all are in bucket 0 unless losses are requested.
    """

    total: int
    costs: dict[str, int]
    buckets: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint64]


def _count_chunk(
    rows: pl.LazyFrame, _: Runs | None, *, with_losses: bool, with_costs: bool
) -> _ChunkCounts:
    """Count a chunk as one stratum; numpy is ten times as fast as a group_by."""
    columns = [ELIGIBLE, *([LOSS] if with_losses else []), *([COST] if with_costs else [])]
    chunk = rows.select(columns).collect(engine="in-memory")
    eligible = chunk if chunk[ELIGIBLE].all() else chunk.filter(ELIGIBLE)
    cost = int(eligible[COST].sum()) if with_costs else len(eligible)
    losses = eligible[LOSS].to_numpy() if with_losses else np.zeros(len(eligible), np.float32)
    buckets, counts = count_buckets(losses)
    costs = {strata.EVERYTHING: cost} if len(eligible) else {}
    return _ChunkCounts(len(chunk), costs, buckets, counts)


def _count_by_stratum(rows: pl.LazyFrame, _: Runs | None, *, with_losses: bool) -> _ChunkCounts:
    group = loss_bucket(pl.col(LOSS)) if with_losses else pl.lit(0, dtype=pl.UInt32)
    counts = (
        rows.select(
            pl.when(ELIGIBLE).then(group).alias(_BUCKET),
            LABEL,
            # u64 sums: polars lengths are u32 and wrap beyond 2^32 rows.
            pl.lit(1, dtype=pl.UInt64).alias(_COUNT),
            COST,
        )
        .group_by(_BUCKET, LABEL)
        .agg(pl.col(_COUNT).sum(), pl.col(COST).sum())
        .collect()
    )
    eligible = counts.filter(pl.col(_BUCKET).is_not_null())
    costs = eligible.group_by(LABEL).agg(pl.col(COST).sum())
    return _ChunkCounts(
        total=int(counts[_COUNT].sum()),
        costs=dict(costs.iter_rows()),
        buckets=eligible[_BUCKET].to_numpy(),
        counts=eligible[_COUNT].to_numpy(),
    )
