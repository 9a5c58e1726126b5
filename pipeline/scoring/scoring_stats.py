"""What scoring is doing: shards, samples, units and bytes per second, how busy models are, losses.

Adding up what spans report.
"""

from collections import Counter
from collections.abc import Iterable
from time import monotonic

from catalogs.losses.catalog import BatchSplits
from pipeline.console import say
from pipeline.scoring.worker import Measured, SpanTask


class Watch:
    """The sums over the spans of one driver; those of an earlier driver are not in it."""

    def __init__(self, waiting: Iterable[SpanTask]) -> None:
        self._spans_left = Counter(task.span.shard_id for task in waiting)
        self._num_shards = len(self._spans_left)
        self._started, self._ended = monotonic(), 0.0
        self._batch_splits = BatchSplits()
        self.failed: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self._busy = self._seconds = 0.0
        # A sample without a loss, and why: "" where there was none.
        self.example = ""

    def add(self, task: SpanTask, measured: Measured) -> None:
        """A span is done."""
        self._spans_left.subtract([task.span.shard_id])
        self.failed.update(measured.failed)
        self.sums.update(
            samples=measured.num_samples,
            units=measured.num_units,
            bytes=measured.bytes_read,
            truncated=measured.num_truncated,
            spans=1,
        )
        self._busy += measured.busy_seconds
        self._seconds += measured.seconds
        self._batch_splits = BatchSplits.sum([self._batch_splits, measured.batch_splits])
        if measured.refused is not None and not self.example:
            row, why = measured.refused
            self.example = f"row {row} of shard {task.span.shard_id} ({task.shard.uri}): {why}"
        for row in measured.killers:
            say(
                f"row {row} of shard {task.span.shard_id} ({task.shard.uri}) ended the worker "
                "process each time it was tried alone: it gets the status `killed`"
            )

    def death(self, task: SpanTask) -> None:
        """The worker process that had a span ended before it was done."""
        self.sums["retried"] += 1
        say(f"the worker process that had {task} ended: trying again")

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())

    def line(self) -> str:
        """The rates so far, in one line."""
        numbers = self.numbers()
        done = self._num_shards - sum(left > 0 for left in self._spans_left.values())
        failed = "".join(f", {count} {status}" for status, count in sorted(self.failed.items()))
        retried = f", {self.sums['retried']} spans retried" if self.sums["retried"] else ""
        return (
            f"{done}/{self._num_shards} shards, {numbers['samples_per_second']:,.0f} samples/s, "
            f"{numbers['units_per_second']:,.0f} units/s, "
            f"{numbers['bytes_per_second'] / 1e6:,.1f} MB/s, "
            f"models busy {numbers['busy_share']:.0%}{failed}{retried}"
        )

    def numbers(self) -> dict[str, float]:
        """Everything that is worth keeping."""
        seconds = max((self._ended or monotonic()) - self._started, 1e-9)
        rates = {f"{n}_per_second": self.sums[n] / seconds for n in ("samples", "units", "bytes")}
        counts = {f"num_{n}": self.sums[n] for n in ("spans", "samples", "units", "bytes")}
        return {
            **{name: float(value) for name, value in (counts | rates).items()},
            "seconds": seconds,
            "busy_share": self._busy / self._seconds if self._seconds else 0.0,
            "num_splits": float(self._batch_splits.num_splits),
            "num_truncated": float(self.sums["truncated"]),
            "num_retried": float(self.sums["retried"]),
            **{f"num_{status}": float(count) for status, count in sorted(self.failed.items())},
        }

    def end(self) -> None:
        """All spans are done: says what a person should know, if anything."""
        self._ended = monotonic()
        if self._batch_splits.num_splits:
            say(
                f"{self._batch_splits.num_splits} batches did not fit into memory and were halved: "
                f"lower scoring.batch_units; the next plan takes {self._batch_splits.fitting_units}"
            )
        if self.sums["truncated"]:
            say(f"{self.sums['truncated']} samples were cut to the length that the task allows")
