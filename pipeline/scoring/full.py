"""Measures the loss of every sample with one checkpoint, on the cluster, into the loss catalog.

The driver's side: spans → tasks → parts → the snapshot that commits them. Killed at any moment,
it redoes only unfinished spans.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TypeVar

import polars as pl

from attent_select.errors import InputError, MissingError
from attent_select.schema import OK, STATUS
from catalogs import LossCatalog
from catalogs.layout import Layout
from catalogs.losses.catalog import BatchSplits, PartSummary
from catalogs.shard_format import Shard
from pipeline import metrics
from pipeline.cluster import Client, run_tasks, worker_check
from pipeline.config.sections import RunConfig
from pipeline.console import progress, say
from pipeline.scoring import scoring_plan, spans
from pipeline.scoring.scoring_plan import Plan
from pipeline.scoring.scoring_stats import Watch
from pipeline.scoring.worker import CompactTask, Measurement, SpanTask, compact_part, measure_span

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ScoreResult:
    """What scoring did. `failed` counts the samples of the snapshot without a loss, by status;
    `numbers` are those of `metrics/scoring`, of what this call measured.
    """

    scored: int
    skipped: int
    failed: dict[str, int]
    samples_per_second: float
    seconds: float
    snapshot: str
    catalog_digest: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def score_round(
    config: RunConfig, *, client: Client, round_number: int, checkpoint: str
) -> ScoreResult:
    """The losses of the whole corpus with the weights at `checkpoint`, as the round's snapshot.

    Spans that were measured before (by an interrupted call) are skipped; a snapshot that is there
    already is left alone.

    Raises:
        InputError: no such checkpoint, a shard has changed, or more samples than
            `scoring.max_failed_share` have no loss.
        ClusterError: the cluster was lost.
    """
    started = monotonic()
    measurement = measurement_of(config, checkpoint=checkpoint)
    catalog = measurement.catalog
    snapshot = Layout(config.run).snapshot(round_number)
    if round_number in catalog.rounds():
        return result_of(catalog, round_number, snapshot=snapshot, scored=0, seconds=0.0)
    shards = catalog.corpus.shards
    check_workers(shards, client=client, config=config)
    plan = scoring_plan.frozen(catalog, measurement, round_number=round_number, shards=shards)
    watch = measure(plan.tasks, client=client, config=config, done=catalog.span_digests())
    parts = _compact(plan, client=client, config=config, round_number=round_number)
    check_failed(parts, config=config, example=watch.example)
    numbers = watch.numbers()
    metrics.publish_scoring(config.run, round_number, numbers)
    seconds = monotonic() - started
    batch_splits = BatchSplits.sum(part.batch_splits for part in parts)
    catalog.publish(
        round_number,
        parts,
        provenance=provenance_of(
            plan.measurement,
            scored=watch.sums["samples"],
            seconds=seconds,
            batch_splits=batch_splits,
        ),
    )
    scored = watch.sums["samples"]
    result = result_of(catalog, round_number, snapshot=snapshot, scored=scored, seconds=seconds)
    return replace(result, numbers=numbers)


def measurement_of(config: RunConfig, *, checkpoint: str) -> Measurement:
    """What the losses of a round depend on. Raises `MissingError` without the checkpoint."""
    from trainers import checkpoint as checkpoints

    found = checkpoints.open(checkpoint)
    if found is None:
        raise MissingError(
            f"there is no finished checkpoint at {checkpoint}: train the round before this first"
        )
    return Measurement(
        run=config.run,
        task=config.task.task,
        model=config.model,
        checkpoint=found,
        settings=config.scoring,
    )


def check_workers(shards: Sequence[Shard], *, client: Client, config: RunConfig) -> None:
    """Raises `InputError` where a worker could not do the work."""
    worker_check.check_workers(
        client,
        objects={shards[0].uri: shards[0].etag},
        needs_gpu="GPU" in config.cluster.resources,
    )


def provenance_of(
    measurement: Measurement, *, scored: int, seconds: float, batch_splits: BatchSplits
) -> dict[str, str | int | float | None]:
    """What a snapshot says about how it came to be; `scored` and `seconds` are of this call."""
    return {
        "checkpoint": measurement.checkpoint.url,
        "checkpoint_digest": measurement.checkpoint.weights_digest,
        "measured_step": measurement.checkpoint.step,
        "scored": scored,
        "seconds": seconds,
        "num_splits": batch_splits.num_splits,
        "fitting_units": batch_splits.fitting_units or measurement.settings.batch_units,
    }


def measure(
    tasks: Sequence[SpanTask], *, client: Client, config: RunConfig, done: set[str]
) -> Watch:
    """Has every span measured that is not `done`; returns what that was like."""
    waiting = [task for task in tasks if task.digest not in done]
    watch = Watch(waiting)
    num_samples = sum(task.num_rows for task in tasks)
    if config.cluster.scheduler != "local" or config.cluster.dashboard is not None:
        say(f"dashboard: {client.dashboard_link}")
    total = sum(task.num_rows for task in waiting)
    with progress("scoring", total=total, unit="samples") as advance:
        for task, measured in tasks_on(
            client,
            measure_span,
            waiting,
            config,
            resources=config.cluster.resources,
            on_death=watch.death,
        ):
            watch.add(task, measured)
            advance(task.num_rows, watch.line())
            # Now rather than after the whole corpus.
            _check_share(watch.num_failed, num_samples, config=config, example=watch.example)
    watch.end()
    return watch


def tasks_on(
    client: Client,
    function: Callable[[T], R],
    tasks: Iterable[T],
    config: RunConfig,
    *,
    resources: Mapping[str, float] | None = None,
    on_death: Callable[[T], None] | None = None,
) -> Iterator[tuple[T, R]]:
    """(task, function(task)) in order of completion, with the run's settings of the cluster."""
    cluster = config.cluster
    return run_tasks(
        client,
        function,
        tasks,
        window_per_thread=cluster.window,
        patience_seconds=cluster.patience_seconds,
        resources=resources,
        on_death=on_death,
    )


def _compact(
    plan: Plan, *, client: Client, config: RunConfig, round_number: int
) -> list[PartSummary]:
    tasks = plan.tasks
    groups = spans.parts([task.span for task in tasks], part_samples=config.scoring.part_samples)
    compactions = (
        CompactTask(
            tuple(tasks[position].digest for position in group),
            round_number,
            plan.measurement,
        )
        for group in groups
    )
    done = tasks_on(client, compact_part, compactions, config)
    # The order of completion is chance; a snapshot lists its shards in order.
    return sorted((part for _, part in done), key=lambda part: part.shards[0].shard_id)


def check_failed(parts: list[PartSummary], *, config: RunConfig, example: str) -> None:
    """Raises `InputError` where more samples of the parts have no loss than the run allows; with
    the `example` of one, where it is not "".
    """
    shards = [shard for part in parts for shard in part.shards]
    total = sum(shard.num_rows for shard in shards)
    failed = total - sum(shard.num_ok for shard in shards)
    _check_share(failed, total, config=config, example=example)


def _check_share(failed: int, total: int, *, config: RunConfig, example: str) -> None:
    allowed = config.scoring.max_failed_share
    if failed > allowed * total:
        raise InputError(
            f"{failed} of {total} samples have no loss, more than scoring.max_failed_share "
            f"{allowed} allows{example and ', for example ' + example}. The span files in "
            f"{Layout(config.run).spans} have the status of each; mend the corpus or the task, or "
            "raise the share"
        )


def result_of(
    catalog: LossCatalog, round_number: int, *, snapshot: str, scored: int, seconds: float
) -> ScoreResult:
    """What there is to say about a published snapshot; `scored` and `seconds` are of this call."""
    statuses = (
        catalog.latest(round_number)
        .select(STATUS, pl.lit(1, dtype=pl.UInt64).alias("count"))
        .group_by(STATUS)
        .agg(pl.col("count").sum())
        .collect(engine="streaming")
    )
    counts = dict(statuses.sort(STATUS).iter_rows())
    return ScoreResult(
        scored=scored,
        skipped=sum(counts.values()) - scored,
        failed={status: count for status, count in counts.items() if status != OK},
        samples_per_second=scored / seconds if seconds else 0.0,
        seconds=seconds,
        snapshot=snapshot,
        catalog_digest=catalog.digest(round_number),
    )
