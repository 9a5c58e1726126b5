"""What the files of a run show before a round: drift, agreement, gain.

Bounded queries over catalog, observed losses and metrics. Everything is read from published
files, so that whoever asks gets the same answer.
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

# Distributions are compared on the rows of evenly spaced shards, about so many.
_SAMPLED_ROWS: Final = 1 << 20
_KEY = [schema.SHARD_ID, schema.ROW]


def measure(
    catalog: LossCatalog,
    *,
    before: Sequence[Round],
    metrics: Mapping[int, Mapping[str, float]],
    last: Signals,
) -> Signals:
    """The signals before the round that follows the rounds `before`.

    Args:
        catalog: of the run.
        before: all earlier rounds.
        metrics: of the finished ones, by number.
        last: what the last decision was made with; of few rows nothing can be said, and what was
            known before still is the best guess.
    """
    scored = [number for number in catalog.rounds() if number < len(before)]
    since = scored[-1] if scored else None
    moved = _moved(catalog, scored) if len(scored) > 1 else None
    gain = _held_out_gain(before, metrics)
    if moved is not None and gain is None:
        trained = [metrics.get(n, {}).get("samples_seen", 0) for n in range(*scored[-2:])]
        gain = _fall(moved) / sum(trained) if sum(trained) and len(moved) else None
    agreement, covered = None, 0.0
    if since is not None:
        pairs, covered = _observed_since(catalog, since, before=len(before))
        agreement = rank_correlation(pairs["scored"].to_numpy(), pairs["observed"].to_numpy())
    drift = None if moved is None else ks_distance(*(moved[c].to_numpy() for c in ("old", "new")))
    return Signals(
        is_scored=since is not None,
        drift=last.drift if drift is None else drift,
        agreement=last.agreement if agreement is None else agreement,
        covered=covered,
        gain=gain,
        gain_before=last.gain,
    )


def in_sample(corpus: Corpus) -> pl.Expr:
    """Whether a row is in one of about a million rows, in whole shards, evenly spaced."""
    every = -(-corpus.num_samples // _SAMPLED_ROWS)
    return pl.col(schema.SHARD_ID) % every == 0


def newly_scored(catalog: LossCatalog, round_number: int) -> pl.LazyFrame:
    """The rows that were measured for a round's snapshot: ids and `scored`, the loss."""
    step = catalog.provenance(round_number)[schema.MEASURED_STEP]
    is_new = (pl.col(schema.MEASURED_STEP) == step) & (pl.col(schema.ORIGIN) == schema.SCORED)
    has_loss = pl.col(schema.STATUS) == schema.OK
    rows = catalog.latest(round_number).filter(is_new & has_loss)
    return rows.select(*_KEY, pl.col(schema.LOSS).alias("scored"))


def last_observed(catalog: LossCatalog, rounds: range) -> pl.LazyFrame:
    """What was last observed of each row in these rounds: ids, `observed` (the loss), `step`."""
    seen = pl.concat([catalog.observed_losses(number) for number in rounds])
    return merge.last_observations(seen).select(
        *_KEY, pl.col(schema.LOSS).alias("observed"), "step"
    )


def _moved(catalog: LossCatalog, scored: Sequence[int]) -> pl.DataFrame | None:
    """`old` and `new` loss of the rows that the last scoring measured; None where the round
    before has lost its parts.
    """
    last, new = scored[-2:]
    if not _is_whole(catalog, last):
        return None
    sampled = in_sample(catalog.corpus)
    old = catalog.latest(last).filter(sampled).select(*_KEY, pl.col(schema.LOSS).alias("old"))
    both = newly_scored(catalog, new).filter(sampled).join(old, on=_KEY)
    # Sorted: a mean must not depend on the order in which a join gives its rows.
    found = both.sort(_KEY).select("old", pl.col("scored").alias("new")).drop_nulls()
    return found.collect(engine="streaming")


def _is_whole(catalog: LossCatalog, round_number: int) -> bool:
    """Whether all parts of a scored round are still there: superseded ones may be removed."""
    snapshot, layout = catalog.snapshot(round_number), Layout(catalog.run)
    assert snapshot is not None
    there = {found.url for found in storage.list_objects(layout.parts)}
    return {layout.part(part) for part in snapshot["part"]} <= there


def _observed_since(catalog: LossCatalog, since: int, *, before: int) -> tuple[pl.DataFrame, float]:
    """`scored` and `observed` of the rows scored for round `since` that were observed afterwards,
    and the share of all rows that were.
    """
    sampled = in_sample(catalog.corpus)
    seen = last_observed(catalog, range(since, before)).filter(sampled)
    num_seen = seen.select(pl.len()).collect(engine="streaming").item()
    rows = catalog.latest(since).filter(sampled).select(pl.len())
    pairs = newly_scored(catalog, since).filter(sampled).join(seen, on=_KEY).sort(_KEY)
    share = num_seen / max(1, rows.collect(engine="streaming").item())
    return pairs.select("scored", "observed").collect(engine="streaming"), share


def _held_out_gain(
    before: Sequence[Round], metrics: Mapping[int, Mapping[str, float]]
) -> float | None:
    """The fall of the held-out loss in the last round, per sample trained, if that one taught."""
    if not before or before[-1].phase != "teach":
        return None
    last, earlier = (metrics.get(len(before) - back, {}) for back in (1, 2))
    if "eval_loss" not in last or "eval_loss" not in earlier:
        return None
    return (earlier["eval_loss"] - last["eval_loss"]) / last["samples_seen"]


def _fall(moved: pl.DataFrame) -> float:
    old, new = (moved[side].cast(pl.Float64).sum() for side in ("old", "new"))
    return float(old - new) / len(moved)
