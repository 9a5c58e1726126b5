"""Partial re-scoring: some samples are measured again, the other losses are kept or updated.

A part merges three sources per row: the new measurement, else the last loss that training observed
since, else the loss of the last scored round. The rows to measure are written down first, so that
a restarted driver measures the same ones.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import InputError
from attent_select.schedule.rescoring import rows_near_threshold, stalest_shards
from attent_select.selection.select import num_samples_of
from catalogs import IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from catalogs.losses import merge
from catalogs.losses.catalog import PartSummary
from catalogs.losses.method import check_same, method_of
from pipeline.scoring.calibration import UNSCORED, Calibration, fit_calibration, fit_warm_up_trend
from pipeline.scoring.driver import PartBuild, ScoringJob
from pipeline.scoring.scoring_plan import ScoringPlan, subset_tasks, with_learned_batch_units
from pipeline.scoring.span_task import Measurement

_WEIGHTS = (schema.WEIGHT, schema.PROBABILITY)


@dataclass(frozen=True)
class MergeTask:
    """Make one part of the newest losses of consecutive shards."""

    shards: range
    kept_round: int | None
    round_number: int
    digests: tuple[str, ...]
    calibration: Calibration
    measurement: Measurement

    def __str__(self) -> str:
        return f"a part of the shards {self.shards.start} to {self.shards.stop - 1}"


def merge_part(task: MergeTask) -> PartSummary:
    """Make the part on a worker."""
    return task.measurement.catalog.merge(
        task.shards,
        since=task.kept_round,
        round_number=task.round_number,
        spans=task.digests,
        calibration=task.calibration.quantiles,
    )


@dataclass(frozen=True)
class PartialRescoring:
    """Measure the share `share` of the corpus again: a `ScoringMethod`.

    `ratio` is that of the last selection, which tells where its threshold is.
    """

    job: ScoringJob
    share: float
    ratio: float

    @cached_property
    def kept_round(self) -> int | None:
        """The last scored round, whose losses are kept; None if losses come from training only.

        Raises:
            InputError: no earlier round was scored, or it was by another method.
        """
        job = self.job
        earlier = [number for number in job.catalog.rounds() if number < job.round_number]
        if not earlier and job.config.schedule.rescore.kind != "observed":
            raise InputError(
                f"{job.config.run}: no round before {job.round_number} was scored, so all samples "
                "must be scored first"
            )
        kept = max(earlier, default=None)
        if kept is not None:
            before = method_of(job.catalog.provenance(kept))
            what = f"the losses of round {kept}, of which some are kept,"
            check_same(job.measurement.method, before, what=what)
        return kept

    def plan(self) -> ScoringPlan:
        measurement = with_learned_batch_units(self.job.catalog, self.job.measurement)
        if self.kept_round is None or self.share == 0:
            return ScoringPlan(measurement, ())
        rows = self._rows_to_measure(self.kept_round)
        tasks = subset_tasks(rows, measurement)
        return ScoringPlan(measurement, tuple(tasks))

    def part_build(self, plan: ScoringPlan) -> PartBuild:
        calibration = self._calibration([task.digest for task in plan.tasks])
        return PartBuild(
            merge_part,
            self._merge_tasks(plan, calibration),
            kept_round=self.kept_round,
            provenance={
                "rescored": sum(task.num_rows for task in plan.tasks),
                "by": self.job.config.schedule.rescore.by,
                "calibration": calibration.to_dict(),
            },
        )

    def _rows_to_measure(self, kept_round: int) -> IndexFile:
        """Return the index of the rows to measure; write it unless it is there."""
        config, catalog = self.job.config, self.job.catalog
        url = Layout(config.run).rescored(self.job.round_number)
        by, corpus = config.schedule.rescore.by, catalog.corpus
        num_known = self._num_known(kept_round)
        facts = {
            "corpus_id": corpus.corpus_id,
            "by": by,
            "share": self.share,
            "since": kept_round,
        }
        if storage.info(url) is not None:
            index = IndexFile.open(url, corpus=corpus)
            if index.provenance == facts:
                return index
        draw: dict[str, Any] = {
            "num_samples": num_samples_of(
                self.share, total=sum(shard.num_samples for shard in corpus.shards[:num_known])
            ),
            "seed": config.seed,
            "round_number": self.job.round_number,
        }
        rows: pl.LazyFrame | Iterable[pl.DataFrame]
        if by == "threshold":
            rows = rows_near_threshold(catalog.scan(kept_round), ratio=self.ratio, **draw)
        else:
            rows = _index_rows(catalog, stalest_shards(_shard_ages(catalog, kept_round), **draw))
        # An existing file is from a withdrawn decision, or from another process: the same rows.
        every = itertools.chain(_frames_of(rows), _rows_after(catalog, num_known))
        return IndexFile.write(url, every, provenance=facts, overwrite=True)

    def _num_known(self, kept_round: int) -> int:
        """Return the number of shards with losses; those appended since are measured completely."""
        snapshot = self.job.catalog.snapshot(kept_round)
        assert snapshot is not None
        return len(snapshot)

    def _calibration(self, digests: Sequence[str]) -> Calibration:
        catalog, number = self.job.catalog, self.job.round_number
        if self.kept_round is None:
            return fit_warm_up_trend(catalog, round_number=number)
        if self.job.config.schedule.rescore.kind == "observed":
            return UNSCORED
        return fit_calibration(catalog, since=self.kept_round, round_number=number, spans=digests)

    def _merge_tasks(self, plan: ScoringPlan, calibration: Calibration) -> Iterator[MergeTask]:
        """Yield one task for each part that has to be rebuilt."""
        digests: dict[int, list[str]] = {}
        for task in plan.tasks:
            digests.setdefault(task.span.shard_id, []).append(task.digest)
        for shards in self._shard_ranges(changed=digests):
            yield MergeTask(
                shards,
                self.kept_round,
                self.job.round_number,
                tuple(digest for shard_id in shards for digest in digests.get(shard_id, ())),
                calibration,
                plan.measurement,
            )

    def _shard_ranges(self, *, changed: Iterable[int]) -> Iterator[range]:
        """Yield the shard ranges of the parts that hold changed or newly observed shards."""
        catalog = self.job.catalog
        num_samples = [shard.num_samples for shard in catalog.corpus.shards]
        most = self.job.config.scoring.part_samples
        shards: Sequence[int] = range(len(num_samples))
        if self.kept_round is not None:
            observed = _observed_shards(catalog, range(self.kept_round, self.job.round_number))
            snapshot = catalog.snapshot(self.kept_round)
            assert snapshot is not None
            ideal = -(-sum(num_samples) // most)
            known = range(len(snapshot))
            shards = merge.shards_to_rebuild(
                snapshot["part"], {*changed, *observed} & {*known}, ideal_ranges=ideal
            )
            shards = [*shards, *range(len(snapshot), len(num_samples))]
        return merge.shard_ranges(shards, num_samples=num_samples, most=most)


def _shard_ages(catalog: LossCatalog, kept_round: int) -> pl.DataFrame:
    """Return per shard the number of rows and the mean step of their measurement."""
    steps = catalog.latest(kept_round).select(
        schema.SHARD_ID, schema.MEASURED_STEP, pl.lit(1, dtype=pl.UInt64).alias("num_rows")
    )
    # Integer sums are reproducible; a streaming mean differs in its last bits.
    sums = steps.group_by(schema.SHARD_ID).agg(pl.all().sum()).collect(engine="streaming")
    return sums.with_columns(pl.col(schema.MEASURED_STEP) / pl.col("num_rows"))


def _index_rows(catalog: LossCatalog, shards: pl.DataFrame) -> pl.LazyFrame:
    """Return the first `num_rows` rows of each of `shards`, in the schema of an index."""
    rows = catalog.corpus.rows().join(
        shards.lazy(), on=schema.SHARD_ID, how="inner", maintain_order="left"
    )
    return rows.filter(pl.col(schema.ROW) < pl.col("num_rows")).select(
        schema.SHARD_ID,
        schema.ROW,
        *(pl.lit(1.0).cast(schema.INDEX[name]).alias(name) for name in _WEIGHTS),
    )


def _rows_after(catalog: LossCatalog, num_known: int) -> Iterator[pl.DataFrame]:
    """Yield all rows of each shard that was appended, in the schema of an index."""
    weights = [pl.lit(1.0).cast(schema.INDEX[name]).alias(name) for name in _WEIGHTS]
    for shard in catalog.corpus.shards[num_known:]:
        rows = pl.int_range(shard.num_samples, dtype=pl.UInt32, eager=True).alias(schema.ROW)
        shard_id = pl.lit(shard.shard_id, pl.UInt32).alias(schema.SHARD_ID)
        yield rows.to_frame().select(shard_id, schema.ROW, *weights)


def _frames_of(rows: pl.LazyFrame | Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect_batches(maintain_order=True, engine="streaming")
    yield from rows


def _observed_shards(catalog: LossCatalog, rounds: range) -> pl.Series:
    """Return the shards with rows that training observed in these rounds."""
    seen = pl.concat([catalog.observed_losses(number) for number in rounds])
    observed = seen.select(pl.col(schema.SHARD_ID).unique()).collect(engine="streaming")
    return observed[schema.SHARD_ID]
