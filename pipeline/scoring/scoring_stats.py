"""Statistics of a scoring job: throughput, how busy the models are, failures, split batches."""

import logging
from collections import Counter
from collections.abc import Iterable
from time import monotonic

from catalogs.losses.catalog import BatchSplits
from catalogs.losses.unusable import Unusable
from pipeline.scoring.span_task import SpanResult, SpanTask

_log = logging.getLogger("attent.pipeline.scoring.scoring_stats")


class ScoringStats:
    """Sums over the spans that this driver had measured; those of an earlier driver are not in it.

    `unusable` has the samples without a loss of all spans: `earlier` are those of earlier drivers.
    """

    def __init__(self, waiting: Iterable[SpanTask], *, earlier: Unusable) -> None:
        self._spans_left = Counter(task.span.shard_id for task in waiting)
        self._num_shards = len(self._spans_left)
        self._started, self._ended = monotonic(), 0.0
        self._batch_splits = BatchSplits()
        self.unusable = earlier
        self.sums: Counter[str] = Counter()
        self._busy_seconds = self._worker_seconds = 0.0

    def add(self, task: SpanTask, result: SpanResult) -> None:
        """Count a finished span."""
        self._spans_left.subtract([task.span.shard_id])
        self.unusable.update(result.unusable)
        self.sums.update(
            samples=result.num_samples,
            units=result.num_units,
            bytes=result.bytes_read,
            truncated=result.num_truncated,
            input_units=result.input_units,
            padded_units=result.padded_units,
            spans=1,
        )
        self._busy_seconds += result.busy_seconds
        self._worker_seconds += result.seconds
        self._batch_splits = BatchSplits.sum([self._batch_splits, result.batch_splits])
        shard = f"shard {task.span.shard_id} ({task.shard.uri})"
        for row in result.poison_rows:
            _log.warning(
                f"row {row} of {shard} ended the worker process each time it was tried alone: "
                "it gets the status `killed`"
            )

    def add_death(self, task: SpanTask) -> None:
        """Count a worker process that ended before its span was finished."""
        self.sums["retried"] += 1
        _log.warning(f"the worker process of {task} ended: trying again")

    def line(self) -> str:
        """Return the rates so far as one line."""
        numbers = self.numbers()
        done = self._num_shards - sum(left > 0 for left in self._spans_left.values())
        failed = "".join(f", {count} {status}" for status, count in self._failed)
        retried = f", {self.sums['retried']} spans retried" if self.sums["retried"] else ""
        return (
            f"{done}/{self._num_shards} shards, {numbers['samples_per_second']:,.0f} samples/s, "
            f"{numbers['units_per_second']:,.0f} units/s, "
            f"{numbers['bytes_per_second'] / 1e6:,.1f} MB/s, "
            f"models busy {numbers['busy_share']:.0%}{failed}{retried}"
        )

    def numbers(self) -> dict[str, float]:
        """Return the numbers that `metrics/scoring` keeps."""
        seconds = max((self._ended or monotonic()) - self._started, 1e-9)
        rates = {f"{n}_per_second": self.sums[n] / seconds for n in ("samples", "units", "bytes")}
        counts = {f"num_{n}": self.sums[n] for n in ("spans", "samples", "units", "bytes")}
        is_idle = not self._worker_seconds
        return {
            **{name: float(value) for name, value in (counts | rates).items()},
            "seconds": seconds,
            "busy_share": 0.0 if is_idle else self._busy_seconds / self._worker_seconds,
            "padding": self._padding,
            "num_splits": float(self._batch_splits.num_splits),
            "num_truncated": float(self.sums["truncated"]),
            "num_retried": float(self.sums["retried"]),
            **{f"num_{status}": float(count) for status, count in self._failed},
        }

    @property
    def _padding(self) -> float:
        """Share of padding in the batches."""
        padded = self.sums["padded_units"]
        return 1 - self.sums["input_units"] / padded if padded else 0.0

    @property
    def _failed(self) -> list[tuple[str, int]]:
        return sorted(self.unusable.counts.items())

    def end(self) -> None:
        """Stop the clock, and log what a person should know."""
        self._ended = monotonic()
        if self._batch_splits.num_splits:
            _log.warning(
                f"{self._batch_splits.num_splits} batches did not fit into memory and were halved: "
                "lower scoring.batch_units; the next round uses batches of "
                f"{self._batch_splits.fitting_units} units"
            )
        if self.sums["truncated"]:
            _log.warning(
                f"{self.sums['truncated']} samples were cut to the length that the task allows"
            )
