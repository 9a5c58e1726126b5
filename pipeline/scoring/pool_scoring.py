"""Scoring of a pool: only the candidates of a round are measured, whatever the corpus's size."""

from dataclasses import replace
from time import monotonic

from attent_select.schema import OK, STATUS
from catalogs import IndexFile
from catalogs.layout import Layout
from catalogs.losses import pools
from catalogs.losses.catalog import BatchSplits
from catalogs.losses.fidelity import fidelity_in, with_fidelity
from catalogs.losses.unusable import Unusable
from pipeline import metrics
from pipeline.scoring.driver import (
    ScoreResult,
    ScoringJob,
    check_share,
    compare_with_whole,
    measure_spans,
    numbers_of,
    provenance_of,
)
from pipeline.scoring.scoring_plan import subset_tasks, with_learned_batch_units


def score_pool(job: ScoringJob, candidates: IndexFile) -> ScoreResult:
    """Publish the losses of the round's candidates, unless they are published.

    Spans that an interrupted call has measured are skipped.

    Raises what `score_round` raises.
    """
    started = monotonic()
    if job.round_number in pools.pool_rounds(job.config.run):
        return _published_result(job, scored=0, seconds=0.0)
    measurement = with_learned_batch_units(job.catalog, job.measurement)
    tasks = list(subset_tasks(candidates, measurement))
    stats = measure_spans(job, tasks)
    failed = stats.unusable.counts.total()
    check_share(failed, candidates.num_samples, config=job.config, unusable=stats.unusable)
    fidelity = compare_with_whole(job, measurement, tasks)
    numbers, scored = numbers_of(stats, fidelity), stats.sums["samples"]
    metrics.publish_scoring(job.config.run, job.round_number, numbers)
    digests = [task.digest for task in tasks]
    splits = BatchSplits.sum(job.catalog.batch_splits_in(digests))
    seconds = monotonic() - started
    provenance = provenance_of(measurement, stats, splits, seconds=seconds)
    provenance = with_fidelity(provenance, fidelity)
    pools.publish_pool(job.catalog, job.round_number, digests, provenance=provenance)
    return replace(_published_result(job, scored=scored, seconds=seconds), numbers=numbers)


def _published_result(job: ScoringJob, *, scored: int, seconds: float) -> ScoreResult:
    """Return the result for the published losses; `scored` and `seconds` are of this call."""
    catalog, number = job.catalog, job.round_number
    rows = pools.pool_losses(catalog, number).frame()
    statuses = rows.group_by(STATUS).len().sort(STATUS).collect(engine="streaming")
    counts = dict(statuses.iter_rows())
    provenance = pools.pool_provenance(catalog, number)
    measured = Unusable.of(provenance["unusable"])
    return ScoreResult(
        scored=scored,
        skipped=sum(counts.values()) - scored,
        failed={status: count for status, count in counts.items() if status != OK},
        examples=tuple(measured.examples),
        samples_per_second=scored / seconds if seconds else 0.0,
        seconds=seconds,
        snapshot=Layout(job.config.run).pool(number),
        catalog_digest=pools.pool_digest(catalog, number),
        fidelity=fidelity_in(provenance),
        numbers={},
    )
