"""Signals before a round with a pool, measured from the losses of the candidates so far.

The candidates of each round are random eligible samples, so that their mean losses can be compared.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select import schema
from attent_select.schedule.adaptive import Signals
from attent_select.schedule.rounds import Round
from attent_select.stats.agreement import rank_correlation
from catalogs import LossCatalog
from catalogs.losses import pools
from pipeline.adaptive.signals import held_out_gain, last_observed

_KEY = [schema.SHARD_ID, schema.ROW]


def measure_pools(
    catalog: LossCatalog,
    *,
    before: Sequence[Round],
    metrics: Mapping[int, Mapping[str, float]],
    last: Signals,
) -> Signals:
    """Measure the signals before the round that follows the rounds `before`; see `measure`."""
    scored, gain = _scored_rounds(catalog, before), held_out_gain(before, metrics)
    if not scored:
        return Signals(gain=gain, gain_before=last.gain)
    if gain is None and len(scored) > 1:
        old, new = (_losses(catalog, number)["scored"].to_numpy().mean() for number in scored[-2:])
        trained = sum(metrics[number].get("samples_seen", 0) for number in range(*scored[-2:]))
        gain = float(old - new) / trained if trained else None
    observed = last_observed(catalog, range(scored[-1], len(before)))
    both = _losses(catalog, scored[-1]).lazy().join(observed, on=_KEY).sort(_KEY).collect()
    agreement = rank_correlation(both["scored"].to_numpy(), both["observed"].to_numpy())
    return Signals(
        is_scored=True,
        agreement=last.agreement if agreement is None else agreement,
        gain=gain,
        gain_before=last.gain,
    )


def newest_losses(catalog: LossCatalog, *, before: Sequence[Round]) -> npt.NDArray[np.float64]:
    """Return the finite losses of the newest scored candidates; none before any are scored."""
    scored = _scored_rounds(catalog, before)
    if not scored:
        return np.zeros(0)
    return _losses(catalog, scored[-1])["scored"].to_numpy()


def _scored_rounds(catalog: LossCatalog, before: Sequence[Round]) -> list[int]:
    return [number for number in pools.pool_rounds(catalog.run) if number < len(before)]


def _losses(catalog: LossCatalog, number: int) -> pl.DataFrame:
    """Return the candidates with a loss, ids and `scored` float64, in (shard_id, row) order."""
    has_loss = pl.col(schema.STATUS) == schema.OK
    loss = pl.col(schema.LOSS).cast(pl.Float64).alias("scored")
    return pools.pool_losses(catalog, number).frame().filter(has_loss).select(*_KEY, loss).collect()
