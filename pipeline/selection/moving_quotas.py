"""Moving quotas: the shares of the strata in a round, from losses of random samples of each."""

import logging
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
_REFERENCE = "__reference"


def decided_shares(run: Run, round_: Round, rows: Chunks) -> dict[str, float] | None:
    """Return the share of each stratum that has samples in `rows`; None without moving quotas.

    The decision is made from the losses of the round, and published, unless it was.
    """
    composition: Composition = run.config.selection.composition
    quotas = composition.quotas
    if not isinstance(quotas, MovingQuotas):
        return None
    probes = _random_samples(run, round_, rows, composition=composition, quotas=quotas)
    decision = quota_log.read(run.config.run, round_.number)
    if decision is None:
        decision = _decide(_shares_before(run, round_), probes, quotas, number=round_.number)
        quota_log.publish(run.config.run, decision)
        (_log.warning if set(decision.strata) - set(probes[LABEL]) else _log.info)(str(decision))
    has_samples = set(probes[LABEL])
    return {name: share for name, share in decision.shares.items() if name in has_samples}


def _shares_before(run: Run, round_: Round) -> dict[str, float]:
    for number in reversed(range(round_.number)):
        if (decision := quota_log.read(run.config.run, number)) is not None:
            return decision.shares
    return first_shares(run.config.run)


def _random_samples(
    run: Run, round_: Round, rows: Chunks, *, composition: Composition, quotas: MovingQuotas
) -> pl.DataFrame:
    """Return label, loss and reference of random samples of each stratum, in random order.

    They are eligible and have both losses; the same ones however the rows are chunked.
    """
    take = partial(
        _draw,
        composition=composition,
        reference=quotas.reference,
        count=quotas.samples,
        key=stream_key(run.config.seed, Purpose.QUOTAS, round_.number),
    )
    drawn = pl.concat(list(rows.run(take))).sort(_RANDOM)
    return drawn.group_by(LABEL, maintain_order=True).head(quotas.samples)


def _draw(
    rows: pl.LazyFrame, *, composition: Composition, reference: str, count: int, key: int
) -> pl.DataFrame:
    if composition.where is not None:
        schema = rows.collect_schema()
        rows = rows.filter(sql_expression.condition(composition.where, schema, what="where"))
    if composition.rank_column is not None:
        rows = rows.filter(pl.col(composition.rank_column).fill_null(0) == 0)
    both = rows.select(
        SHARD_ID,
        ROW,
        stratum_label(composition.by).alias(LABEL),
        pl.col(LOSS).cast(pl.Float64),
        pl.col(reference).cast(pl.Float64).alias(_REFERENCE),
        sample_uniform(key).alias(_RANDOM),
    ).filter(pl.col(LOSS).is_finite() & pl.col(_REFERENCE).is_finite())
    return both.collect().sort(_RANDOM).group_by(LABEL, maintain_order=True).head(count)


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
