"""Signals before a round (drift, agreement, gain), measured from the published files of a run.

Bounded queries over catalog, observed losses and metrics: the same files give the same signals in
any process.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from attent_select import schema
from attent_select.schedule.adaptive import Signals
from attent_select.schedule.rounds import Round
from attent_select.stats.agreement import ks_distance, rank_correlation
from catalogs import Corpus, LossCatalog, storage
from catalogs.layout import Layout
from catalogs.losses import merge

# Distributions are compared on about this many rows, of evenly spaced shards.
_PILOT_ROWS: Final = 1 << 20
_KEY = [schema.SHARD_ID, schema.ROW]


def measure(
    catalog: LossCatalog,
    *,
    before: Sequence[Round],
    metrics: Mapping[int, Mapping[str, float]],
    last: Signals,
) -> Signals:
    """Measure the signals before the round that follows the rounds `before`.

    Args:
        catalog: of the run.
        before: all earlier rounds.
        metrics: of the finished ones, by number.
        last: the signals of the last decision; they are kept where too few rows have both losses.
    """
    scored = [number for number in catalog.rounds() if number < len(before)]
    since = scored[-1] if scored else None
    losses = _old_and_new_losses(catalog, scored) if len(scored) > 1 else None
    gain = held_out_gain(before, metrics)
    if losses is not None and gain is None:
        trained = [metrics.get(n, {}).get("samples_seen", 0) for n in range(*scored[-2:])]
        gain = _fall(losses) / sum(trained) if sum(trained) and len(losses) else None
    agreement, covered = None, 0.0
    if since is not None:
        pairs, covered = _observed_since(catalog, since, before=len(before))
        agreement = rank_correlation(pairs["scored"].to_numpy(), pairs["observed"].to_numpy())
    drift = None if losses is None else ks_distance(*(losses[c].to_numpy() for c in ("old", "new")))
    return Signals(
        is_scored=since is not None,
        drift=last.drift if drift is None else drift,
        agreement=last.agreement if agreement is None else agreement,
        covered=covered,
        gain=gain,
        gain_before=last.gain,
    )


def in_pilot_subset(corpus: Corpus) -> pl.Expr:
    """Whether a row is in one of about a million rows, in whole shards, evenly spaced."""
    every = -(-corpus.num_samples // _PILOT_ROWS)
    return pl.col(schema.SHARD_ID) % every == 0


def newly_scored(catalog: LossCatalog, round_number: int) -> pl.LazyFrame:
    """Return the rows that were measured for a round's snapshot: ids and `scored`, the loss."""
    step = catalog.provenance(round_number)[schema.MEASURED_STEP]
    is_new = (pl.col(schema.MEASURED_STEP) == step) & (pl.col(schema.ORIGIN) == schema.SCORED)
    has_loss = pl.col(schema.STATUS) == schema.OK
    rows = catalog.latest(round_number).filter(is_new & has_loss)
    return rows.select(*_KEY, pl.col(schema.LOSS).alias("scored"))


def last_observed(catalog: LossCatalog, rounds: range) -> pl.LazyFrame:
    """Return the last observation of each row in these rounds: ids, `observed` (loss), `step`."""
    seen = pl.concat([catalog.observed_losses(number) for number in rounds])
    return merge.last_observations(seen).select(
        *_KEY, pl.col(schema.LOSS).alias("observed"), "step"
    )


def _old_and_new_losses(catalog: LossCatalog, scored: Sequence[int]) -> pl.DataFrame | None:
    """Return `old` and `new` loss of the rows that the last scoring measured.

    None if parts of the scored round before it were relosses.
    """
    last, new = scored[-2:]
    if not _has_all_parts(catalog, last):
        return None
    is_pilot = in_pilot_subset(catalog.corpus)
    old = catalog.latest(last).filter(is_pilot).select(*_KEY, pl.col(schema.LOSS).alias("old"))
    both = newly_scored(catalog, new).filter(is_pilot).join(old, on=_KEY)
    # Sorted, as a join returns rows in any order and the last bits of a mean depend on it.
    losses = both.sort(_KEY).select("old", pl.col("scored").alias("new")).drop_nulls()
    return losses.collect(engine="streaming")


def _has_all_parts(catalog: LossCatalog, round_number: int) -> bool:
    """Whether all parts of a scored round exist: superseded ones may have been relosses."""
    snapshot, layout = catalog.snapshot(round_number), Layout(catalog.run)
    assert snapshot is not None
    existing = {item.url for item in storage.list_objects(layout.parts)}
    return {layout.part(part) for part in snapshot["part"]} <= existing


def _observed_since(catalog: LossCatalog, since: int, *, before: int) -> tuple[pl.DataFrame, float]:
    """Return `scored` and `observed` of the rows scored for round `since` and observed since, and
    the share of all rows that were observed.
    """
    is_pilot = in_pilot_subset(catalog.corpus)
    seen = last_observed(catalog, range(since, before)).filter(is_pilot)
    num_seen = seen.select(pl.len()).collect(engine="streaming").item()
    rows = catalog.latest(since).filter(is_pilot).select(pl.len())
    pairs = newly_scored(catalog, since).filter(is_pilot).join(seen, on=_KEY).sort(_KEY)
    share = num_seen / max(1, rows.collect(engine="streaming").item())
    return pairs.select("scored", "observed").collect(engine="streaming"), share


def held_out_gain(
    before: Sequence[Round], metrics: Mapping[int, Mapping[str, float]]
) -> float | None:
    """Return the fall of the held-out loss per sample trained in the last round, if it taught."""
    if not before or before[-1].phase != "teach":
        return None
    last, earlier = (metrics.get(len(before) - back, {}) for back in (1, 2))
    if "eval_loss" not in last or "eval_loss" not in earlier:
        return None
    return (earlier["eval_loss"] - last["eval_loss"]) / last["samples_seen"]


def _fall(losses: pl.DataFrame) -> float:
    """Return the mean of old − new losses, in nats."""
    old, new = losses.select(pl.col("old", "new").cast(pl.Float64).sum()).row(0)
    return float(old - new) / len(losses)
