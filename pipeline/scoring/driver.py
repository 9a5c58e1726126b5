"""The driver of a scoring job: measure spans on the cluster, build parts, publish the snapshot.

A `ScoringMethod` decides which rows are measured and how parts are built from them; everything else
is the same for every method. A driver that is killed at any moment redoes only unfinished spans.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from time import monotonic
from typing import Any, Protocol, TypeVar

import polars as pl

from attent_select.errors import InputError, MissingError
from attent_select.schema import OK, STATUS
from attent_select.stats.randomness import Purpose, stream_key
from catalogs import LossCatalog
from catalogs.layout import Layout
from catalogs.losses.catalog import BatchSplits, PartSummary
from catalogs.losses.fidelity import Fidelity, fidelity_in, with_fidelity
from catalogs.losses.method import METHOD
from catalogs.losses.unusable import Example, Unusable
from pipeline import metrics
from pipeline.cluster import Client, run_tasks, worker_check
from pipeline.config.sections import RunConfig
from pipeline.progress import progress
from pipeline.scoring.cheap.fidelity import measure_fidelity
from pipeline.scoring.cheap.method import proxy_digests, with_dtype
from pipeline.scoring.scoring_plan import ScoringPlan, provenance_before
from pipeline.scoring.scoring_stats import ScoringStats
from pipeline.scoring.span_task import Measurement, SpanTask
from pipeline.scoring.worker import measure_span

T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger("attent.pipeline.scoring.driver")


@dataclass(frozen=True)
class ScoringJob:
    """One round's scoring: with the weights at the URL `checkpoint`, on the cluster of `client`."""

    config: RunConfig
    client: Client
    round_number: int
    checkpoint: str

    @cached_property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.config.run, carry=self.config.carry_schema)

    @cached_property
    def measurement(self) -> Measurement:
        """What the losses of the round depend on.

        Raises:
            MissingError: there is no finished checkpoint at that URL.
        """
        from trainers import checkpoint

        opened = checkpoint.open(self.checkpoint)
        if opened is None:
            raise MissingError(
                f"there is no finished checkpoint at {self.checkpoint}: train the round before "
                "this first"
            )
        settings = with_dtype(
            self.config.scoring, self.client, before=provenance_before(self.catalog)
        )
        return Measurement(
            run=self.config.run,
            task=self.config.task.task,
            model=self.config.model,
            checkpoint=opened,
            settings=settings,
            proxy=proxy_digests(settings, self.config.task.task),
        )

    def run_tasks(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        resources: Mapping[str, float] | None = None,
        on_death: Callable[[T], None] | None = None,
    ) -> Iterator[tuple[T, R]]:
        """Yield (task, function(task)) in order of completion."""
        return run_tasks(
            self.client,
            function,
            tasks,
            window_per_thread=self.config.cluster.window,
            patience_seconds=self.config.cluster.patience_seconds,
            resources=resources,
            on_death=on_death,
        )


@dataclass(frozen=True)
class PartBuild:
    """How the parts of a snapshot are built: `build_part(task)` on a worker, for each task.

    Shards that no part covers keep their losses of round `kept_round`; `provenance` is added to
    the snapshot's.
    """

    build_part: Callable[[Any], PartSummary]
    tasks: Iterable[Any]
    kept_round: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class ScoringMethod(Protocol):
    """Which rows a round measures, and how parts are built from the measured spans."""

    def plan(self) -> ScoringPlan:
        """Return the spans to measure, the same ones after a restart."""
        ...

    def part_build(self, plan: ScoringPlan) -> PartBuild:
        """Return how to build the parts; called when all spans of the plan are measured."""
        ...


@dataclass(frozen=True)
class ScoreResult:
    """What scoring did.

    Attributes:
        scored: samples measured by this call.
        skipped: the other samples of the snapshot.
        failed: number of samples without a loss by status.
        examples: a sample of each cause, as far as it is known.
        samples_per_second: of this call.
        seconds: of this call.
        snapshot: URL of the round's snapshot.
        catalog_digest: of the sorted rows.
        fidelity: of cheap losses; None for whole ones.
        numbers: what `metrics/scoring` has about this call.
    """

    scored: int
    skipped: int
    failed: dict[str, int]
    examples: tuple[Example, ...]
    samples_per_second: float
    seconds: float
    snapshot: str
    catalog_digest: str
    fidelity: Fidelity | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


def score_round(job: ScoringJob, method: ScoringMethod) -> ScoreResult:
    """Publish the snapshot of a round, unless it is published.

    Spans that an interrupted call has measured are skipped.

    Raises:
        MissingError: there is no such checkpoint.
        InputError: a shard has changed, or more samples than `scoring.max_failed_share` have no
            loss.
        ClusterError: the cluster was lost.
    """
    started = monotonic()
    catalog = job.catalog
    if job.round_number in catalog.rounds():
        return _published_result(job, scored=0, seconds=0.0)
    plan = method.plan()
    stats = measure_spans(job, plan.tasks)
    fidelity = compare_with_whole(job, plan.measurement, plan.tasks)
    part_build = method.part_build(plan)
    parts = [part for _, part in job.run_tasks(part_build.build_part, part_build.tasks)]
    # Tasks complete in any order; a snapshot lists its shards in order.
    parts.sort(key=lambda part: part.shards[0].shard_id)
    _check_failed(parts, config=job.config, unusable=stats.unusable)
    scored, numbers = stats.sums["samples"], numbers_of(stats, fidelity)
    metrics.publish_scoring(job.config.run, job.round_number, numbers)
    batch_splits, seconds = (
        BatchSplits.sum(part.batch_splits for part in parts),
        monotonic() - started,
    )
    provenance = provenance_of(plan.measurement, stats, batch_splits, seconds=seconds)
    provenance = with_fidelity({**provenance, **part_build.provenance}, fidelity)
    catalog.publish(job.round_number, parts, provenance=provenance, keep=part_build.kept_round)
    return replace(_published_result(job, scored=scored, seconds=seconds), numbers=numbers)


def provenance_of(
    measurement: Measurement, stats: ScoringStats, batch_splits: BatchSplits, *, seconds: float
) -> dict[str, Any]:
    """Return what measured the losses of a round, and what that took, for the published file."""
    return {
        "checkpoint": measurement.checkpoint.url,
        "checkpoint_digest": measurement.checkpoint.weights_digest,
        "measured_step": measurement.checkpoint.step,
        METHOD: measurement.method,
        "scored": stats.sums["samples"],
        "seconds": seconds,
        "unusable": stats.unusable.to_dict(),
        "num_splits": batch_splits.num_splits,
        "fitting_units": batch_splits.fitting_units or measurement.settings.batch_units,
    }


def compare_with_whole(
    job: ScoringJob, measurement: Measurement, tasks: Sequence[SpanTask]
) -> Fidelity | None:
    """Return how the measured losses compare with whole ones; None if they are whole."""
    return measure_fidelity(
        measurement,
        tasks,
        key=stream_key(job.config.seed, Purpose.COMPARE, job.round_number),
        run=partial(job.run_tasks, resources=job.config.cluster.resources),
    )


def numbers_of(stats: ScoringStats, fidelity: Fidelity | None) -> dict[str, float]:
    """Return the numbers that `metrics/scoring` keeps about a round."""
    return stats.numbers() | ({} if fidelity is None else fidelity.numbers())


def _check_workers(job: ScoringJob) -> None:
    shard = job.catalog.corpus.shards[0]
    worker_check.check_workers(
        job.client,
        objects={shard.uri: shard.etag},
        needs_gpu="GPU" in job.config.cluster.resources,
    )


def measure_spans(job: ScoringJob, tasks: Sequence[SpanTask]) -> ScoringStats:
    """Measure every span that has no file yet.

    Raises:
        InputError: a shard has changed, or too many samples have no loss.
        ClusterError: the cluster was lost.
    """
    _check_workers(job)
    finished, config = job.catalog.span_digests(), job.config
    waiting = [task for task in tasks if task.digest not in finished]
    earlier = job.catalog.unusable_in([task.digest for task in tasks if task.digest in finished])
    stats = ScoringStats(waiting, earlier=earlier)
    num_samples = sum(task.num_rows for task in tasks)
    if config.cluster.scheduler != "local" or config.cluster.dashboard is not None:
        _log.info(f"dashboard: {job.client.dashboard_link}")
    total = sum(task.num_rows for task in waiting)
    with progress("scoring", total=total, unit="samples") as advance:
        for task, result in job.run_tasks(
            measure_span,
            waiting,
            resources=config.cluster.resources,
            on_death=stats.add_death,
        ):
            stats.add(task, result)
            advance(task.num_rows, stats.line())
            # Fail early, not after the whole corpus.
            unusable = stats.unusable
            check_share(unusable.counts.total(), num_samples, config=config, unusable=unusable)
    stats.end()
    return stats


def _check_failed(parts: Iterable[PartSummary], *, config: RunConfig, unusable: Unusable) -> None:
    shards = [shard for part in parts for shard in part.shards]
    total = sum(shard.num_rows for shard in shards)
    failed = total - sum(shard.num_ok for shard in shards)
    check_share(failed, total, config=config, unusable=unusable)


def check_share(failed: int, total: int, *, config: RunConfig, unusable: Unusable) -> None:
    """Raise `InputError` if more samples have no loss than the configuration allows."""
    allowed = config.scoring.max_failed_share
    if failed > allowed * total:
        raise InputError(
            f"{failed} of {total} samples have no loss, more than scoring.max_failed_share "
            f"{allowed} allows: {unusable}. The span files in {Layout(config.run).spans} have the "
            "status of each sample. Fix the corpus or the task settings, or raise "
            "scoring.max_failed_share."
        )


def _published_result(job: ScoringJob, *, scored: int, seconds: float) -> ScoreResult:
    """Return the result for the published snapshot; `scored` and `seconds` are of this call."""
    statuses = (
        job.catalog.latest(job.round_number)
        .select(STATUS, pl.lit(1, dtype=pl.UInt64).alias("count"))
        .group_by(STATUS)
        .agg(pl.col("count").sum())
        .collect(engine="streaming")
    )
    counts = dict(statuses.sort(STATUS).iter_rows())
    failed = {status: count for status, count in counts.items() if status != OK}
    return ScoreResult(
        scored=scored,
        skipped=sum(counts.values()) - scored,
        failed=failed,
        examples=tuple(_examples(job, failed)),
        samples_per_second=scored / seconds if seconds else 0.0,
        seconds=seconds,
        snapshot=Layout(job.config.run).snapshot(job.round_number),
        catalog_digest=job.catalog.digest(job.round_number),
        fidelity=fidelity_in(job.catalog.provenance(job.round_number)),
    )


def _examples(job: ScoringJob, failed: Iterable[str]) -> Iterator[Example]:
    """Yield an example of each cause, from the last round that measured a sample with its status.

    Losses that the round kept were measured in an earlier one.
    """
    missing = set(failed)
    for number in sorted(job.catalog.rounds(), reverse=True):
        if number > job.round_number or not missing:
            continue
        measured = Unusable.of(job.catalog.provenance(number).get("unusable", {}))
        yield from (each for each in measured.examples if each.status in missing)
        missing -= measured.counts.keys()
