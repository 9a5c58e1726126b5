"""Calibration of observed losses: a map to scored losses, fitted on rows that have both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from attent_select import schema
from attent_select.errors import MissingError
from attent_select.stats.quantile_map import QuantileMap, Trend
from catalogs import LossCatalog
from catalogs.losses import merge
from pipeline.adaptive.signals import in_pilot_subset, last_observed, newly_scored

_KEY = [schema.SHARD_ID, schema.ROW]
# Number of evenly spaced span files that the driver reads.
_NUM_SPANS: Final = 64
# In the first 1/8 of a round's steps the model is close to the one that scored.
_BEGINNING: Final = 8


@dataclass(frozen=True)
class Calibration:
    """A map from observed to scored losses; `source` says which rows it was fitted on."""

    quantiles: QuantileMap | Trend
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. A trend is left out: it holds for one epoch only."""
        quantiles = self.quantiles if isinstance(self.quantiles, QuantileMap) else QuantileMap()
        return {"source": self.source, **quantiles.to_dict()}


# Without any scored losses there is no other scale to map to.
UNSCORED = Calibration(QuantileMap(), "none: nothing is scored, they are as observed")


def fit_calibration(
    catalog: LossCatalog, *, since: int, round_number: int, spans: Sequence[str]
) -> Calibration:
    """Fit the map for losses observed from round `since` on, as of `round_number`.

    The first of these that has enough rows with both losses (32) is used:

    1. the rows measured for this round, in `spans`;
    2. the map of the round before;
    3. the rows scored for round `since` and observed before it;
    4. those observed at the beginning of that round, when the model was close to the one that
       scored.
    """
    sources: tuple[tuple[str, Callable[[], QuantileMap | None]], ...] = (
        ("scored for this round", lambda: _fit_on_spans(catalog, since, round_number, spans)),
        ("the map of the round before", lambda: _map_of_round(catalog, since)),
        (f"scored for round {since}", lambda: _fit_on_last_scoring(catalog, since)),
        (f"the beginning of round {since}", lambda: _fit_on_beginning(catalog, since)),
    )
    for source, fit in sources:
        if (quantiles := fit()) is not None:
            return Calibration(quantiles, source)
    return Calibration(QuantileMap(), "none: too few rows have both losses, they are as observed")


def fit_warm_up_trend(catalog: LossCatalog, *, round_number: int) -> Calibration:
    """Fit the trend of losses that were observed before anything was scored, to remove it.

    Raises:
        MissingError: nothing was observed before the round.
    """
    seen = pl.concat([catalog.observed_losses(number) for number in range(round_number)])
    last = merge.last_observations(seen.filter(in_pilot_subset(catalog.corpus))).select(
        schema.LOSS, "step"
    )
    losses = last.sort("step", schema.LOSS).collect(engine="streaming")
    if not len(losses):
        raise MissingError(
            f"{catalog.run}: rescore `observed` needs losses that training observed, and there are "
            f"none before round {round_number}: train the rounds before it first"
        )
    trend = Trend.fit(losses[schema.LOSS].to_numpy(), losses["step"].to_numpy())
    return Calibration(trend, "observed in the warm-up, its trend taken out")


def _fit_on_spans(
    catalog: LossCatalog, since: int, round_number: int, spans: Sequence[str]
) -> QuantileMap | None:
    read = spans[:: -(-len(spans) // _NUM_SPANS) or 1]
    scored = catalog.span_losses(read).filter(pl.col(schema.STATUS) == schema.OK)
    return _fit_quantiles(
        scored.select(*_KEY, pl.col(schema.LOSS).alias("scored")),
        last_observed(catalog, range(since, round_number)),
    )


def _map_of_round(catalog: LossCatalog, since: int) -> QuantileMap | None:
    kept = catalog.provenance(since).get("calibration")
    if not kept or not kept["observed"]:
        return None
    return QuantileMap.from_dict(kept)


def _fit_on_last_scoring(catalog: LossCatalog, since: int) -> QuantileMap | None:
    if since == 0:
        return None
    observed = last_observed(catalog, range(since - 1, since))
    return _fit_quantiles(_pilot_scores(catalog, since), observed)


def _fit_on_beginning(catalog: LossCatalog, since: int) -> QuantileMap | None:
    steps = catalog.observed_losses(since).select(
        pl.col("step").min().alias("first"), pl.col("step").max().alias("last")
    )
    first, last = steps.collect(engine="streaming").row(0)
    if first is None:
        return None
    end = first + (last - first) // _BEGINNING
    seen = catalog.observed_losses(since).filter(pl.col("step") <= end)
    observed = seen.select(*_KEY, pl.col(schema.LOSS).alias("observed"))
    return _fit_quantiles(_pilot_scores(catalog, since), observed)


def _pilot_scores(catalog: LossCatalog, round_number: int) -> pl.LazyFrame:
    return newly_scored(catalog, round_number).filter(in_pilot_subset(catalog.corpus))


def _fit_quantiles(scored: pl.LazyFrame, observed: pl.LazyFrame) -> QuantileMap | None:
    pairs = scored.join(observed, on=_KEY).collect(engine="streaming")
    return QuantileMap.fit(pairs["observed"].to_numpy(), pairs["scored"].to_numpy())
