"""What scoring does on a worker: measure one span, or make one part of finished spans.

The tasks (small, picklable), reading ahead, the model that a worker keeps. Not here: planning
and committing (`full.py`), computing losses (`trainers/scoring/scorer.py`). A task that runs
twice writes the same bytes to the same place.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.schema import (
    KILLED,
    MEASURED_STEP,
    NUM_UNITS,
    OK,
    ORIGIN,
    ROW,
    SCORED,
    SHARD_ID,
    STATUS,
    VISITS,
)
from catalogs import LossCatalog
from catalogs.concurrency import ordered_map
from catalogs.corpus import read_shard
from catalogs.index import rows_of_shard
from catalogs.layout import Layout
from catalogs.losses.catalog import BatchSplits, PartSummary, Span
from catalogs.shard_format import Sample, Shard
from pipeline.cluster.worker_check import check_here, environment
from pipeline.config.sections import ScoringSettings
from pipeline.config.task_reference import TaskReference
from pipeline.scoring.allocator import keep_freed_memory
from pipeline.scoring.journal import Journal

if TYPE_CHECKING:
    import torch

    from trainers.checkpoint import Checkpoint
    from trainers.scoring.scorer import ScoringNotes

_READ_BYTES = 16 << 20
_READ_THREADS = 2
_AHEAD_BYTES = 64 << 20


@dataclass(frozen=True)
class Measurement:
    """Everything that a loss depends on but the sample, the same for all spans of a round. `task`
    is one, or a `TaskReference`.
    """

    run: str
    task: Any
    model: dict[str, Any]
    checkpoint: "Checkpoint"
    settings: ScoringSettings
    # The driver's versions.
    environment: Mapping[str, str] = field(default_factory=environment)

    @property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.run, carry=self.settings.carry_schema)


@dataclass(frozen=True)
class Picks:
    """Some rows of a span: those in the index file `url`, `num_rows` of them."""

    url: str
    num_rows: int


@dataclass(frozen=True, slots=True)
class SpanTask:
    """One future: the losses of one span, or of some of its rows."""

    shard: Shard
    span: Span
    digest: str
    measurement: Measurement
    picks: Picks | None = None

    @property
    def num_rows(self) -> int:
        return self.picks.num_rows if self.picks is not None else self.span.num_rows

    @property
    def rows(self) -> range:
        return range(self.span.first_row, self.span.first_row + self.span.num_rows)

    def __str__(self) -> str:
        last = self.span.first_row + self.span.num_rows - 1
        return f"rows {self.span.first_row} to {last} of {self.shard.uri}"


@dataclass(frozen=True)
class CompactTask:
    """One future: the span files of a contiguous range of shards → one part."""

    digests: tuple[str, ...]
    round_number: int
    measurement: Measurement

    def __str__(self) -> str:
        return f"a part of {len(self.digests)} spans"


@dataclass(frozen=True)
class Measured:
    """What measuring a span took and came across, for the driver to add up.

    `busy_seconds` is the time that the model did not wait for samples; `failed` counts samples
    without a loss by status; `killers` are the rows that ended worker processes.
    """

    num_samples: int
    num_units: int
    batch_splits: BatchSplits
    failed: Mapping[str, int]
    killers: tuple[int, ...]
    bytes_read: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    num_truncated: int = 0
    refused: tuple[int, str] | None = None


def measure_span(task: SpanTask) -> Measured:
    """Measures one span and writes its file; unless it is there, from an attempt that could not
    say so.
    """
    check_here(task.measurement.environment)
    found = task.measurement.catalog.read_span(task.digest)
    if found is not None:
        rows, batch_splits = found
        return _result(rows, batch_splits)
    return _measure(task)


def _measure(task: SpanTask) -> Measured:
    import torch

    started = perf_counter()
    measurement = task.measurement
    torch.set_num_threads(measurement.settings.torch_threads)
    keep_freed_memory()
    journal = Journal(Layout(measurement.run).journal(task.digest))
    for group in journal.suspects.groups():
        journal.probing(group)
        _scored(task, _Rows(task, group))
    wanted = _Rows(task, task.rows, journal=journal)
    scores, notes = _scored(task, wanted)
    batch_splits = BatchSplits(notes.num_splits, notes.fitting_units)
    measurement.catalog.write_span(
        task.digest, _described(task, scores, wanted), batch_splits=batch_splits
    )
    journal.close()
    return replace(
        _result(scores, batch_splits),
        bytes_read=wanted.bytes_read,
        seconds=perf_counter() - started,
        busy_seconds=notes.busy_seconds,
        num_truncated=notes.num_truncated,
        refused=notes.refused,
    )


def _result(rows: pl.DataFrame, batch_splits: BatchSplits) -> Measured:
    """What the rows of a span file say by themselves."""
    return Measured(
        num_samples=len(rows),
        num_units=int(rows[NUM_UNITS].cast(pl.UInt64).sum()),
        batch_splits=batch_splits,
        failed=Counter(rows.filter(pl.col(STATUS) != OK)[STATUS].to_list()),
        killers=tuple(rows.filter(pl.col(STATUS) == KILLED)[ROW].to_list()),
    )


def compact_part(task: CompactTask) -> PartSummary:
    """Makes one part of its span files."""
    return task.measurement.catalog.compact(task.digests, round_number=task.round_number)


def _scored(task: SpanTask, wanted: "_Rows") -> "tuple[pl.DataFrame, ScoringNotes]":
    """The scores of the rows, without those that would kill, and what happened on the way."""
    from trainers.scoring.scorer import ScoringNotes, score_rows

    measurement, notes = task.measurement, ScoringNotes()
    scores = score_rows(
        _task(measurement),
        _model(measurement),
        wanted.samples(),
        settings=measurement.settings,
        notes=notes,
        finished=wanted.journal.finished if wanted.journal else None,
    )
    killed = [{ROW: row, NUM_UNITS: 0, STATUS: KILLED} for row in wanted.killers]
    left_out = pl.DataFrame(killed, schema=scores.schema)
    return pl.concat([scores, left_out]).sort(ROW), notes


def _described(task: SpanTask, scores: pl.DataFrame, wanted: "_Rows") -> pl.DataFrame:
    """The scores with everything else that stands in a span file."""
    settings = task.measurement.settings
    return scores.with_columns(
        pl.lit(task.span.shard_id).alias(SHARD_ID),
        pl.lit(task.measurement.checkpoint.step).alias(MEASURED_STEP),
        pl.lit(SCORED).alias(ORIGIN),
        pl.lit(0).alias(VISITS),
        *(
            pl.Series(name, values, dtype=settings.carry_schema[name], strict=False)
            for name, values in wanted.carried.items()
        ),
    )


class _Rows:
    """Some rows of a span: reading their samples ahead, and what is kept of them beside."""

    def __init__(self, task: SpanTask, rows: range, *, journal: Journal | None = None) -> None:
        self._task, self._range = task, rows
        self._picked = _picked(task, rows)
        self.journal = journal
        self.carried: dict[str, list[Any]] = {n: [] for n in task.measurement.settings.carry}
        self.bytes_read = 0

    @property
    def killers(self) -> tuple[int, ...]:
        """The rows to leave out: each ended worker processes."""
        return self.journal.suspects.killers if self.journal else ()

    def samples(self) -> Iterator[tuple[int, Sample]]:
        """(row, sample) of the rows that are not left out, noted in the journal."""
        leave_out = set(self.killers)
        kept = ((row, sample) for row, sample in self._read() if row not in leave_out)
        if self.journal is None:
            return kept
        window = self._task.measurement.settings.window_samples
        return self.journal.noting(kept, window=window, end=self._range.stop)

    def _read(self) -> Iterator[tuple[int, Sample]]:
        """(row, sample), read ahead; what is carried along is put aside on the way."""
        shard, rows = self._task.shard, self._picked
        columns = tuple(dict.fromkeys([*self._task.measurement.task.columns, *self.carried]))
        sample_bytes = max(1, shard.num_bytes // max(1, shard.num_samples))
        chunk = max(1, _READ_BYTES // sample_bytes)
        chunks = [rows[first : first + chunk] for first in range(0, len(rows), chunk)]
        readings = ordered_map(
            lambda part: (part, read_shard(shard, rows=part, columns=columns)),
            chunks,
            num_threads=_READ_THREADS,
            budget=_AHEAD_BYTES,
            cost=lambda part: len(part) * sample_bytes,
        )
        with closing(readings):
            for part, reading in readings:
                self.bytes_read += reading.bytes_read
                for row, sample in zip(part, reading.samples, strict=True):
                    for name, values in self.carried.items():
                        values.append(sample[name])
                    yield row, sample


def _picked(task: SpanTask, rows: range) -> Sequence[int]:
    """Those of `rows` that are to be measured: all of them, unless some were picked."""
    if task.picks is None:
        return rows
    found = rows_of_shard(task.picks.url, task.span.shard_id)
    return [row for row in found.tolist() if row in rows]


def _task(measurement: Measurement) -> Any:
    task = measurement.task
    return task.load() if isinstance(task, TaskReference) else task


_loaded: dict[str, "torch.nn.Module"] = {}
_loading = threading.Lock()


def _model(measurement: Measurement) -> "torch.nn.Module":
    """The checkpoint's model, loaded once per worker; the one before it is let go."""
    key = f"{measurement.checkpoint.url} {measurement.checkpoint.weights_digest}"
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            models = _task(measurement).models(measurement.model)
            _loaded[key] = measurement.checkpoint.load(models).eval()
        return _loaded[key]
