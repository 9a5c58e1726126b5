"""Which rows tell what an observed loss means, and the map that is fitted on them.

Finding rows with both losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from attent_select import schema
from attent_select.errors import MissingError
from attent_select.stats.quantile_map import QuantileMap, Trend
from catalogs import LossCatalog
from catalogs.losses import merge
from pipeline.adaptive.signals import in_sample, last_observed, newly_scored

_KEY = [schema.SHARD_ID, schema.ROW]
# Span files that the driver looks at; evenly spaced.
_NUM_SPANS: Final = 64
# At the beginning of a round the model still is nearly the one that scored.
_BEGINNING: Final = 8


@dataclass(frozen=True)
class Calibration:
    """A map from observed to scored losses, and the rows that it was fitted on, in words."""

    quantiles: QuantileMap | Trend
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. A trend is not kept: it is of one epoch alone."""
        quantiles = self.quantiles if isinstance(self.quantiles, QuantileMap) else QuantileMap()
        return {"source": self.source, **quantiles.to_dict()}


# Where nothing is ever scored, there is no other scale.
UNSCORED = Calibration(QuantileMap(), "none: nothing is scored, they are as observed")


def calibrate(
    catalog: LossCatalog, *, since: int, round_number: int, spans: Sequence[str]
) -> Calibration:
    """The map for losses observed from round `since` on, as of `round_number`.

    It is fitted on the rows that have both losses. The best are those measured for this round, in
    `spans`. Where there are none (or fewer than 32), the map of the round before serves; where that
    has none, the rows scored for round `since` and observed before it, then those observed at the
    beginning of that round, when the model was still nearly the one that scored.
    """
    ways = (
        ("scored for this round", lambda: _scored_now(catalog, since, round_number, spans)),
        ("the map of the round before", lambda: _kept(catalog, since)),
        (f"scored for round {since}", lambda: _scored_last(catalog, since)),
        (f"the beginning of round {since}", lambda: _beginning(catalog, since)),
    )
    for source, fit in ways:
        if (found := fit()) is not None:
            return Calibration(found, source)
    return Calibration(QuantileMap(), "none: too few rows have both losses, they are as observed")


def of_warm_up(catalog: LossCatalog, *, round_number: int) -> Calibration:
    """The map for losses that were observed before anything was scored: their trend is taken out.

    Raises:
        MissingError: nothing was observed before the round.
    """
    seen = pl.concat([catalog.observed_losses(number) for number in range(round_number)])
    last = merge.last_observations(seen.filter(in_sample(catalog.corpus))).select(
        schema.LOSS, "step"
    )
    found = last.sort("step", schema.LOSS).collect(engine="streaming")
    if not len(found):
        raise MissingError(
            f"{catalog.run}: rescore `observed` takes the losses that training observed, and there "
            f"are none before round {round_number}: train the rounds before it first"
        )
    trend = Trend.fit(found[schema.LOSS].to_numpy(), found["step"].to_numpy())
    return Calibration(trend, "observed in the warm-up, its trend taken out")


def _scored_now(
    catalog: LossCatalog, since: int, round_number: int, spans: Sequence[str]
) -> QuantileMap | None:
    some = spans[:: -(-len(spans) // _NUM_SPANS) or 1]
    scored = catalog.span_losses(some).filter(pl.col(schema.STATUS) == schema.OK)
    return _fitted(
        scored.select(*_KEY, pl.col(schema.LOSS).alias("scored")),
        last_observed(catalog, range(since, round_number)),
    )


def _kept(catalog: LossCatalog, since: int) -> QuantileMap | None:
    kept = catalog.provenance(since).get("calibration")
    if not kept or not kept["observed"]:
        return None
    return QuantileMap.from_dict(kept)


def _scored_last(catalog: LossCatalog, since: int) -> QuantileMap | None:
    if since == 0:
        return None
    observed = last_observed(catalog, range(since - 1, since))
    return _fitted(_sampled_scores(catalog, since), observed)


def _beginning(catalog: LossCatalog, since: int) -> QuantileMap | None:
    steps = catalog.observed_losses(since).select(
        pl.col("step").min().alias("first"), pl.col("step").max().alias("last")
    )
    first, last = steps.collect(engine="streaming").row(0)
    if first is None:
        return None
    end = first + (last - first) // _BEGINNING
    seen = catalog.observed_losses(since).filter(pl.col("step") <= end)
    observed = seen.select(*_KEY, pl.col(schema.LOSS).alias("observed"))
    return _fitted(_sampled_scores(catalog, since), observed)


def _sampled_scores(catalog: LossCatalog, round_number: int) -> pl.LazyFrame:
    return newly_scored(catalog, round_number).filter(in_sample(catalog.corpus))


def _fitted(scored: pl.LazyFrame, observed: pl.LazyFrame) -> QuantileMap | None:
    pairs = scored.join(observed, on=_KEY).collect(engine="streaming")
    return QuantileMap.fit(pairs["observed"].to_numpy(), pairs["scored"].to_numpy())
