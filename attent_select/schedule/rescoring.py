"""Which rows a partial round measures again. Pure.

The settings, and two ways to choose: whole shards, stalest_shards first, or rows, nearest to the
threshold first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSS, MEASURED_STEP, SHARD_ID
from attent_select.selection.chunks import Chunks
from attent_select.selection.composition import Composition
from attent_select.selection.eligibility import census, eligible_rows
from attent_select.selection.select import select
from attent_select.stats.randomness import Purpose, stream_key, uniform
from attent_select.strategies.hard import Hard
from attent_select.strategy import Candidates, Cutoff

By = Literal["staleness", "threshold"]

# Of rows chosen for their nearness to the threshold, so many are drawn from all the others: or
# nobody would see what happens far from it, and nothing would tell what an observed loss means
# there.
_DRAWN: Final = 0.2
_AUTO_SHARE: Final = 0.25


@dataclass(frozen=True)
class Rescore:
    """How much of the corpus a teaching round measures again.

    The first round that needs losses measures all, but for `observed`. Losses that are not measured
    again are kept, and where training has observed a sample since, its (calibrated) observed loss
    is taken.

    Attributes:
        kind: `full` (all), `partial` (the share `share`), `none` after the first time, `auto` (what
            the cost model finds worthwhile), or `observed`: nothing is ever scored, the losses are
            those that training observes, from the warm-up on.
        share: of the corpus, in (0, 1]. `partial` needs one; `auto` takes it until it knows how
            much the losses change (0.25 if left out).
        by: `staleness` takes whole shards, those with the oldest losses first; `threshold` takes
            the rows whose loss is nearest to where the last selection was cut.
    """

    kind: Literal["full", "partial", "none", "auto", "observed"] = "full"
    share: float | None = None
    by: By = "staleness"

    def __post_init__(self) -> None:
        if self.share is not None and self.kind not in ("partial", "auto"):
            raise InputError(f"share: {self.kind} has none; expected kind partial or auto")
        if self.share is None and self.kind == "partial":
            raise InputError("share: a partial round needs one, such as 0.1")
        if self.share is not None and not 0 < self.share <= 1:
            raise InputError(f"share: {self.share} is outside (0, 1]")

    @property
    def planned_share(self) -> float:
        """The share that is measured again where nothing is known of the losses."""
        fixed = {"full": 1.0, "none": 0.0, "observed": 0.0, "auto": _AUTO_SHARE}
        return self.share if self.share is not None else fixed[self.kind]


def stalest_shards(
    ages: pl.DataFrame, *, num_samples: int, seed: int, round_number: int
) -> pl.DataFrame:
    """The shards that a partial round measures: `shard_id` u32, `num_rows` u32, in shard order.

    Those whose losses are oldest come first, the mean of `measured_step` says; equally old ones in
    random order. The last is cut after as many rows as `num_samples` leaves.

    Args:
        ages: one row per shard: shard_id u32, num_rows, measured_step (float64, mean).
        num_samples: how many rows, at most all.
        seed: of the run.
        round_number: equally old shards come in another order in each round.
    """
    key = stream_key(seed, Purpose.RESCORE, round_number)
    order = ages.with_columns(
        uniform(key, pl.col(SHARD_ID).cast(pl.UInt64)).alias("random"),
        pl.col("num_rows").cast(pl.Int64),
    ).sort(MEASURED_STEP, "random", SHARD_ID)
    before = pl.col("num_rows").cum_sum() - pl.col("num_rows")
    taken = pl.min_horizontal("num_rows", num_samples - before)
    return (
        order.select(SHARD_ID, taken.alias("num_rows"))
        .filter(pl.col("num_rows") > 0)
        .cast({"num_rows": pl.UInt32})
        .sort(SHARD_ID)
    )


def rows_near_threshold(
    losses: pl.LazyFrame | Chunks, *, ratio: float, num_samples: int, seed: int, round_number: int
) -> Iterable[pl.DataFrame]:
    """The rows (schema `INDEX`) whose loss is nearest to where a selection of `ratio` is cut.

    The cut is the loss that the share `ratio` of the rows lies above: there a small error changes
    what is selected. A fifth of the rows is drawn uniformly from the others. Rows without a loss
    are never taken; where fewer have one than asked for, those are.

    Args:
        losses: the catalog.
        ratio: of the last selection, in (0, 1].
        num_samples: how many rows.
        seed: of the run.
        round_number: each round draws anew.
    """
    rows = eligible_rows(losses, strategy=Hard(), composition=Composition(), in_units=False)
    found = census(rows, with_losses=True)
    if not found.num_eligible or found.losses is None:
        return []
    return select(
        losses,
        strategy=_Nearness(found.losses.quantile(1 - ratio)),
        num_samples=min(num_samples, found.num_eligible),
        seed=seed,
        round_number=round_number,
        composition=Composition(explore=_DRAWN),
    ).frames()


@dataclass(frozen=True)
class _Nearness:
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
