"""Shares of the strata in a round: moving quotas, from losses of random samples of each stratum."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import fsum

import polars as pl

from attent_select import sql_expression
from attent_select.schedule.rounds import Round
from attent_select.schema import LOSS, ROW, SHARD_ID
from attent_select.selection.chunks import Chunks
from attent_select.selection.columns import LABEL
from attent_select.selection.composition import Composition
from attent_select.selection.quotas import MovingQuotas, moved_shares
from attent_select.selection.strata import stratum_label
from attent_select.stats.randomness import Purpose, sample_uniform, stream_key
from pipeline.adaptive import quota_log
from pipeline.adaptive.quota_log import QuotaDecision, StratumQuota
from pipeline.runs.first_quotas import first_shares
from pipeline.runs.state import Run

_log = logging.getLogger("attent.pipeline.selection.moving_quotas")

_RANDOM = "__random"
_ELIGIBLE = "__eligible"
_REFERENCE = "__reference"


def decided_shares(run: Run, round_: Round, rows: Chunks) -> dict[str, float] | None:
    """Return the share of each stratum that has samples in `rows`; None if quotas need no change.

    Moving quotas are decided by the losses of the round, and published, unless they were. Of fixed
    quotas, strata without a candidate in the pool of the round are left out.
    """
    composition: Composition = run.config.selection.composition
    quotas = composition.quotas
    if isinstance(quotas, Mapping) and run.config.pool is not None:
        return _shares_of_pool(run, round_, rows, quotas)
    if not isinstance(quotas, MovingQuotas):
        return None
    probes, eligible = _random_samples(run, round_, rows, composition=composition, quotas=quotas)
    decision = quota_log.read(run.config.run, round_.number)
    if decision is None:
        before = _shares_before(run, round_)
        decision = _with_shortfalls(
            _decide(before, probes, quotas, number=round_.number),
            eligible,
            num_samples=round_.num_samples,
        )
        quota_log.publish(run.config.run, decision)
        (_log.warning if set(decision.strata) - set(probes[LABEL]) else _log.info)(str(decision))
    has_samples = set(probes[LABEL])
    return {name: share for name, share in decision.shares.items() if name in has_samples}


def _shares_of_pool(
    run: Run, round_: Round, rows: Chunks, quotas: Mapping[str, float]
) -> dict[str, float]:
    """Return the fixed quotas of the strata that have a candidate."""
    composition = run.config.selection.composition
    is_measured = run.needs_losses(round_)
    count = partial(_labels, composition=composition, is_measured=is_measured)
    labels = set(pl.concat(list(rows.run(count)))[LABEL])
    if missing := sorted(quotas.keys() - labels):
        _log.warning(
            f"round {round_.number}: no candidate is eligible in {', '.join(missing)}; the other"
            " strata have the share of these"
        )
    return {name: share for name, share in quotas.items() if name in labels}


def _labels(rows: pl.LazyFrame, *, composition: Composition, is_measured: bool) -> pl.DataFrame:
    rows = _eligible(rows, composition)
    if is_measured:
        rows = rows.filter(pl.col(LOSS).is_finite())
    return rows.select(stratum_label(composition.by).alias(LABEL)).unique().collect()


def _shares_before(run: Run, round_: Round) -> dict[str, float]:
    for number in reversed(range(round_.number)):
        if (decision := quota_log.read(run.config.run, number)) is not None:
            return decision.shares
    return first_shares(run.config.run)


def _random_samples(
    run: Run, round_: Round, rows: Chunks, *, composition: Composition, quotas: MovingQuotas
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return random samples of each stratum, and how many it has that are eligible.

    The samples have label, loss and reference, in random order: the same ones however the rows are
    chunked. Only rows with both losses count.
    """
    take = partial(
        _draw,
        composition=composition,
        reference=quotas.reference,
        count=quotas.samples,
        key=stream_key(run.config.seed, Purpose.QUOTAS, round_.number),
    )
    chunks = list(rows.run(take))
    counts = pl.concat(chunk.group_by(LABEL).agg(pl.col(_ELIGIBLE).first()) for chunk in chunks)
    eligible = counts.group_by(LABEL).agg(pl.col(_ELIGIBLE).sum())
    drawn = pl.concat(chunks).sort(_RANDOM).group_by(LABEL, maintain_order=True)
    return drawn.head(quotas.samples), dict(eligible.iter_rows())


def _draw(
    rows: pl.LazyFrame, *, composition: Composition, reference: str, count: int, key: int
) -> pl.DataFrame:
    both = (
        _eligible(rows, composition)
        .select(
            SHARD_ID,
            ROW,
            stratum_label(composition.by).alias(LABEL),
            pl.col(LOSS).cast(pl.Float64),
            pl.col(reference).cast(pl.Float64).alias(_REFERENCE),
            sample_uniform(key).alias(_RANDOM),
        )
        .filter(pl.col(LOSS).is_finite() & pl.col(_REFERENCE).is_finite())
    )
    counted = both.with_columns(pl.len().over(LABEL).alias(_ELIGIBLE)).collect()
    return counted.sort(_RANDOM).group_by(LABEL, maintain_order=True).head(count)


def _eligible(rows: pl.LazyFrame, composition: Composition) -> pl.LazyFrame:
    if composition.where is not None:
        schema = rows.collect_schema()
        rows = rows.filter(sql_expression.condition(composition.where, schema, what="where"))
    if composition.rank_column is not None:
        rows = rows.filter(pl.col(composition.rank_column).fill_null(0) == 0)
    return rows


def _decide(
    before: dict[str, float], probes: pl.DataFrame, quotas: MovingQuotas, *, number: int
) -> QuotaDecision:
    means: dict[str, tuple[int, float, float]] = {}
    for (label,), rows in probes.group_by(LABEL, maintain_order=True):
        sums = (fsum(rows[LOSS]) / len(rows), fsum(rows[_REFERENCE]) / len(rows))
        means[str(label)] = (len(rows), *sums)
    # Samples that were appended to the corpus may have new strata: they start at the least share.
    before = before | dict.fromkeys(means.keys() - before.keys(), quotas.min_share)
    excess = {name: loss - reference for name, (_, loss, reference) in means.items()}
    shares = moved_shares(before, excess, quotas=quotas)
    total = fsum(before.values())
    strata = {}
    for name, share in shares.items():
        count, loss, reference = means.get(name, (0, None, None))
        old = before[name] / total
        reason = _reason(excess.get(name), count=count, change=share - old)
        strata[name] = StratumQuota(old, share, count, loss, reference, excess.get(name), reason)
    return QuotaDecision(number, strata)


def _with_shortfalls(
    decision: QuotaDecision, eligible: Mapping[str, int], *, num_samples: int
) -> QuotaDecision:
    """Add to the reasons of strata that have fewer eligible samples than their share."""
    strata = dict(decision.strata)
    for name, one in strata.items():
        expected, count = round(one.share * num_samples), eligible.get(name, 0)
        if 0 < count < expected:
            why = (
                f"{one.why}; the round has only {count:,} eligible samples of it, its share is"
                f" {expected:,}: the others take the rest"
            )
            strata[name] = replace(one, why=why)
    return QuotaDecision(decision.round_number, strata)


def _reason(excess: float | None, *, count: int, change: float) -> str:
    if excess is None:
        return (
            "it has no eligible sample in this round, so that the others have its share; it keeps"
            " its place for the rounds to come"
        )
    direction = "rises" if change > 0 else "falls" if change < 0 else "stays"
    about = f"the loss of {count} random samples is {abs(excess):.3g} nats"
    if excess <= 0:
        return f"{direction}: {about} below the reference, so that nothing is left to learn"
    less = ", less than that of others" if change < 0 else ""
    return f"{direction}: {about} above the reference{less}"
