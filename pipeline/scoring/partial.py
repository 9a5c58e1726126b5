"""A cheap round: measures a part of the corpus again, or nothing, and keeps the other losses.

The driver's side: which rows, their tasks, folding in what training observed, the snapshot.
Killed at any moment, it goes on: the rows to measure are written down first, the snapshot last.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import InputError
from attent_select.schedule.rescoring import rows_near_threshold, stalest_shards
from attent_select.selection.select import num_samples_of
from catalogs import IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from catalogs.losses import merge
from catalogs.losses.catalog import BatchSplits, PartSummary
from pipeline import metrics
from pipeline.cluster import Client
from pipeline.config.sections import RunConfig
from pipeline.scoring import scoring_plan, spans
from pipeline.scoring.calibration import UNSCORED, Calibration, calibrate, of_warm_up
from pipeline.scoring.full import (
    ScoreResult,
    check_failed,
    check_workers,
    measure,
    measurement_of,
    provenance_of,
    result_of,
    tasks_on,
)
from pipeline.scoring.worker import Measurement, Picks, SpanTask


@dataclass(frozen=True)
class FoldTask:
    """One future: the losses of consecutive shards as of now → one part."""

    first: int
    end: int
    since: int | None
    round_number: int
    digests: tuple[str, ...]
    calibration: Calibration
    measurement: Measurement

    def __str__(self) -> str:
        return f"a part of the shards {self.first} to {self.end - 1}"


def fold_part(task: FoldTask) -> PartSummary:
    """Makes one part of old, new and observed losses."""
    return task.measurement.catalog.merge(
        range(task.first, task.end),
        since=task.since,
        round_number=task.round_number,
        spans=task.digests,
        calibration=task.calibration.quantiles,
    )


def rescore_round(
    config: RunConfig,
    *,
    client: Client,
    round_number: int,
    checkpoint: str,
    share: float,
    ratio: float,
) -> ScoreResult:
    """The round's snapshot: the share `share` of the corpus measured with the weights at
    `checkpoint`, what training observed since the last snapshot, and its losses for the rest.

    Args:
        config: of the run.
        client: of the cluster.
        round_number: a round before it was scored, or `schedule.rescore` is `observed`.
        checkpoint: what to measure with.
        share: in [0, 1].
        ratio: of the last selection: where its threshold lies.

    Raises:
        InputError: no round was scored before, or what `score_round` raises.
        ClusterError: the cluster was lost.
    """
    started = monotonic()
    measurement = measurement_of(config, checkpoint=checkpoint)
    catalog = measurement.catalog
    snapshot = Layout(config.run).snapshot(round_number)
    earlier = catalog.rounds()
    if round_number in earlier:
        return result_of(catalog, round_number, snapshot=snapshot, scored=0, seconds=0.0)
    since = max((number for number in earlier if number < round_number), default=None)
    if since is None and config.schedule.rescore.kind != "observed":
        raise InputError(f"{config.run}: no round before {round_number} was scored: score it all")
    check_workers(catalog.corpus.shards, client=client, config=config)
    measurement = scoring_plan.limited(catalog, measurement)
    asked = _tasks(config, measurement, share=share, ratio=ratio, since=since, number=round_number)
    tasks = list(asked)
    watch = measure(tasks, client=client, config=config, done=catalog.span_digests())
    scored = watch.sums["samples"]
    digests = [task.digest for task in tasks]
    calibration = _calibration(config, catalog, since=since, number=round_number, digests=digests)
    folds = _folds(tasks, measurement, calibration, since=since, round_number=round_number)
    done = tasks_on(client, fold_part, folds, config)
    parts = sorted((part for _, part in done), key=lambda part: part.shards[0].shard_id)
    check_failed(parts, config=config, example=watch.example)
    metrics.publish_scoring(config.run, round_number, watch.numbers())
    seconds = monotonic() - started
    batch_splits = BatchSplits.sum(part.batch_splits for part in parts)
    measured = provenance_of(measurement, scored=scored, seconds=seconds, batch_splits=batch_splits)
    how = _how(config, tasks, calibration)
    catalog.publish(round_number, parts, provenance=measured | how, keep=since)
    result = result_of(catalog, round_number, snapshot=snapshot, scored=scored, seconds=seconds)
    return replace(result, numbers=watch.numbers())


def _calibration(
    config: RunConfig,
    catalog: LossCatalog,
    *,
    since: int | None,
    number: int,
    digests: Sequence[str],
) -> Calibration:
    if since is None:
        return of_warm_up(catalog, round_number=number)
    if config.schedule.rescore.kind == "observed":
        return UNSCORED
    return calibrate(catalog, since=since, round_number=number, spans=digests)


def _how(config: RunConfig, tasks: Sequence[SpanTask], calibration: Calibration) -> dict[str, Any]:
    return {
        "rescored": sum(task.num_rows for task in tasks),
        "by": config.schedule.rescore.by,
        "calibration": calibration.to_dict(),
    }


def _tasks(
    config: RunConfig,
    measurement: Measurement,
    *,
    share: float,
    ratio: float,
    since: int | None,
    number: int,
) -> Iterator[SpanTask]:
    """One task per span with rows to measure, in order."""
    if share == 0 or since is None:
        return
    picked = _picked(
        config, measurement.catalog, share=share, ratio=ratio, since=since, number=number
    )
    corpus = measurement.catalog.corpus
    one = pl.lit(1, dtype=pl.UInt32).alias("num_rows")
    counts = picked.frame().select(schema.SHARD_ID, one).group_by(schema.SHARD_ID).sum()
    facts = dict(scoring_plan.measured_by(measurement)) | {"picked": picked.digest}
    for shard_id, num_rows in counts.collect(engine="streaming").sort(schema.SHARD_ID).iter_rows():
        shard = corpus.shard(shard_id)
        most = -(-config.scoring.span_samples * shard.num_samples // num_rows)
        pieces = list(spans.plan([shard], span_samples=most))
        for piece, (_, span) in enumerate(pieces):
            first, end = (num_rows * edge // len(pieces) for edge in (piece, piece + 1))
            digest = spans.digest(shard, span, measured_by=facts)
            yield SpanTask(shard, span, digest, measurement, Picks(picked.url, end - first))


def _picked(
    config: RunConfig,
    catalog: LossCatalog,
    *,
    share: float,
    ratio: float,
    since: int,
    number: int,
) -> IndexFile:
    """The rows to measure, written down unless they are."""
    url = Layout(config.run).rescored(number)
    by, corpus = config.schedule.rescore.by, catalog.corpus
    facts = {"corpus_id": corpus.corpus_id, "by": by, "share": share, "since": since}
    if storage.info(url) is not None:
        there = IndexFile.open(url, corpus=corpus)
        if there.provenance == facts:
            return there
    draw: dict[str, Any] = {
        "num_samples": num_samples_of(share, total=corpus.num_samples),
        "seed": config.seed,
        "round_number": number,
    }
    rows: pl.LazyFrame | Iterable[pl.DataFrame]
    if by == "threshold":
        rows = rows_near_threshold(catalog.scan(since), ratio=ratio, **draw)
    else:
        rows = _rows_of(catalog, stalest_shards(_ages(catalog, since), **draw))
    # What is there is of a decision that was withdrawn, or of another process: the same rows.
    return IndexFile.write(url, rows, provenance=facts, overwrite=True)


def _ages(catalog: LossCatalog, since: int) -> pl.DataFrame:
    """Per shard the rows and the mean step of their measurement."""
    steps = catalog.latest(since).select(
        schema.SHARD_ID, schema.MEASURED_STEP, pl.lit(1, dtype=pl.UInt64).alias("num_rows")
    )
    # Sums of whole numbers: a mean would differ in its last bits from one time to the next.
    sums = steps.group_by(schema.SHARD_ID).agg(pl.all().sum()).collect(engine="streaming")
    return sums.with_columns(pl.col(schema.MEASURED_STEP) / pl.col("num_rows"))


def _rows_of(catalog: LossCatalog, shards: pl.DataFrame) -> pl.LazyFrame:
    """The first `num_rows` rows of each of `shards`, in the schema of an index."""
    rows = catalog.corpus.rows().join(
        shards.lazy(), on=schema.SHARD_ID, how="inner", maintain_order="left"
    )
    return rows.filter(pl.col(schema.ROW) < pl.col("num_rows")).select(
        schema.SHARD_ID,
        schema.ROW,
        *(pl.lit(1.0).cast(schema.INDEX[name]).alias(name) for name in _WEIGHTS),
    )


_WEIGHTS = (schema.WEIGHT, schema.PROBABILITY)


def _folds(
    tasks: Sequence[SpanTask],
    measurement: Measurement,
    calibration: Calibration,
    *,
    since: int | None,
    round_number: int,
) -> Iterator[FoldTask]:
    """One task per part that is made anew."""
    catalog = measurement.catalog
    digests: dict[int, list[str]] = {}
    for task in tasks:
        digests.setdefault(task.span.shard_id, []).append(task.digest)
    num_samples = [shard.num_samples for shard in catalog.corpus.shards]
    most = measurement.settings.part_samples
    shards: Sequence[int] = range(len(num_samples))
    if since is not None:
        changed = {*digests, *_observed_shards(catalog, range(since, round_number))}
        kept = catalog.snapshot(since)
        assert kept is not None
        ideal = -(-sum(num_samples) // most)
        shards = merge.shards_to_rebuild(kept["part"], changed, ideal_ranges=ideal)
    for run in merge.shard_ranges(shards, num_samples=num_samples, most=most):
        yield FoldTask(
            run.start,
            run.stop,
            since,
            round_number,
            tuple(digest for shard_id in run for digest in digests.get(shard_id, ())),
            calibration,
            measurement,
        )


def _observed_shards(catalog: LossCatalog, rounds: range) -> pl.Series:
    """The shards of which training has seen anything in these rounds."""
    seen = pl.concat([catalog.observed_losses(number) for number in rounds])
    observed = seen.select(pl.col(schema.SHARD_ID).unique()).collect(engine="streaming")
    return observed[schema.SHARD_ID]
