"""Partial rescoring: its settings, and the rows that a partial round measures again.

Two ways to choose: whole shards, stalest first, or rows, nearest to the threshold first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import INDEX, LOSS, MEASURED_STEP, SHARD_ID
from attent_select.selection.chunks import Chunks
from attent_select.selection.composition import Composition
from attent_select.selection.counting import count_rows
from attent_select.selection.eligibility import eligible_rows
from attent_select.selection.select import select
from attent_select.stats.randomness import Purpose, stream_key, uniform
from attent_select.strategies.hard import Hard
from attent_select.strategy import Candidates, Cutoff

RescoreBy = Literal["staleness", "threshold"]

# Share of the rows near the threshold that is drawn uniformly from all other rows instead. Without
# it, losses far from the threshold would never be measured, and observed losses not be calibrated.
_UNIFORM_SHARE: Final = 0.2
_AUTO_SHARE: Final = 0.25


@dataclass(frozen=True)
class Rescore:
    """How much of the corpus a teaching round scores again.

    The first round that needs losses scores everything, except with `observed`. Losses that are not
    measured again are kept; if training has observed a sample since, its calibrated observed loss
    replaces the old one.

    Attributes:
        kind: `full` (all), `partial` (the share `share`), `none` (only the first time), `auto` (the
            share that the cost model recommends), or `observed`: nothing is ever scored; the losses
            are those observed in training, from the warm-up on.
        share: share of the corpus, in (0, 1]. Required for `partial`; `auto` uses it until it knows
            how much the losses change (default: 0.25).
        by: `staleness` scores whole shards, oldest losses first; `threshold` scores the rows whose
            loss is nearest to the threshold of the last selection.
    """

    kind: Literal["full", "partial", "none", "auto", "observed"] = "full"
    share: float | None = None
    by: RescoreBy = "staleness"

    def __post_init__(self) -> None:
        if self.share is not None and self.kind not in ("partial", "auto"):
            raise InputError(f"share: not used by {self.kind}; expected kind partial or auto")
        if self.share is None and self.kind == "partial":
            raise InputError("share: required for kind partial, such as 0.1")
        if self.share is not None and not 0 < self.share <= 1:
            raise InputError(f"share: {self.share} is outside (0, 1]")

    @property
    def planned_share(self) -> float:
        """Share that is measured again as long as nothing is known about the losses."""
        defaults = {"full": 1.0, "none": 0.0, "observed": 0.0, "auto": _AUTO_SHARE}
        return self.share if self.share is not None else defaults[self.kind]


def stalest_shards(
    ages: pl.DataFrame, *, num_samples: int, seed: int, round_number: int
) -> pl.DataFrame:
    """Return the stalest shards: `shard_id` u32, `num_rows` u32, in shard order.

    Shards with the smallest mean `measured_step` come first, ties in random order. The last shard
    may be partial: `num_rows` is the number of rows that `num_samples` leaves for it.

    Args:
        ages: one row per shard: shard_id u32, num_rows, measured_step (float64, mean).
        num_samples: number of rows to measure, at most all.
        seed: seed of the run.
        round_number: changes the order of equally old shards.
    """
    key = stream_key(seed, Purpose.RESCORE, round_number)
    order = ages.with_columns(
        uniform(key, pl.col(SHARD_ID).cast(pl.UInt64)).alias("random"),
        pl.col("num_rows").cast(pl.Int64),
    ).sort(MEASURED_STEP, "random", SHARD_ID)
    rows_before = pl.col("num_rows").cum_sum() - pl.col("num_rows")
    rows_to_measure = pl.min_horizontal("num_rows", num_samples - rows_before)
    return (
        order.select(SHARD_ID, rows_to_measure.alias("num_rows"))
        .filter(pl.col("num_rows") > 0)
        .cast({"num_rows": pl.UInt32})
        .sort(SHARD_ID)
    )


def rows_near_threshold(
    losses: pl.LazyFrame | Chunks, *, ratio: float, num_samples: int, seed: int, round_number: int
) -> Iterable[pl.DataFrame]:
    """Return the rows (schema `INDEX`) whose loss is nearest to the threshold of a selection.

    The threshold is the loss that the share `ratio` of the rows exceeds; near it a small error of
    the loss changes the selection. A fifth of the rows is drawn uniformly from the others. Rows
    without a loss are never returned, so the result may have fewer than `num_samples` rows.

    Args:
        losses: rows of the loss catalog.
        ratio: ratio of the last selection, in (0, 1].
        num_samples: number of rows.
        seed: seed of the run.
        round_number: changes the random draw.
    """
    rows = eligible_rows(losses, strategy=Hard(), composition=Composition(), in_units=False)
    counts = count_rows(rows, with_losses=True)
    if not counts.num_eligible or counts.losses is None:
        return []
    selection = select(
        losses,
        strategy=_NearThreshold(counts.losses.quantile(1 - ratio)),
        num_samples=min(num_samples, counts.num_eligible),
        seed=seed,
        round_number=round_number,
        composition=Composition(explore=_UNIFORM_SHARE),
    )
    return (rows.select(*INDEX) for rows in selection.frames())


@dataclass(frozen=True)
class _NearThreshold:
    """key = −|ℓ − θ|, θ the threshold in nats."""

    threshold: float

    needs_distribution: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (LOSS,)

    def key(self, candidates: Candidates) -> pl.Expr:
        return -(pl.col(LOSS).cast(pl.Float64) - self.threshold).abs()

    def probability(self, candidates: Candidates, cutoff: Cutoff) -> pl.Expr:
        return pl.lit(1.0)
