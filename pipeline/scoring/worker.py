"""The scoring worker: measure the losses of one span.

Reads ahead, keeps the model of the latest checkpoint, and writes the span file. A task that runs
twice writes the same bytes to the same place.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.schema import (
    KILLED,
    MEASURED_STEP,
    NUM_UNITS,
    ORIGIN,
    ROW,
    SCORED,
    SHARD_ID,
    STATUS,
    VISITS,
)
from catalogs.concurrency import ordered_map
from catalogs.index import rows_of_shard
from catalogs.layout import Layout
from catalogs.losses.catalog import BatchSplits
from catalogs.losses.unusable import Example, Unusable
from catalogs.shard_format import Sample
from catalogs.shards import read_shard
from pipeline.cluster.worker_check import check_here
from pipeline.config.task_reference import TaskReference
from pipeline.scoring.journal import Journal
from pipeline.scoring.span_task import Measurement, SpanResult, SpanTask
from trainers.allocator import keep_freed_memory

if TYPE_CHECKING:
    import torch

    from trainers.scoring.scorer import ScoringNotes

_KILLED = "it ended the worker process each time it was tried alone"
_READ_BYTES = 16 << 20
_READ_THREADS = 2
_READ_AHEAD_BYTES = 64 << 20


def measure_span(task: SpanTask) -> SpanResult:
    """Measure one span and write its file, unless an earlier attempt has written it."""
    check_here(task.measurement.environment)
    finished = task.measurement.catalog.read_span(task.digest)
    if finished is not None:
        rows, batch_splits = finished
        return _result(rows, batch_splits, task.measurement.catalog.unusable_in([task.digest]))
    return _measure(task)


def _measure(task: SpanTask) -> SpanResult:
    import torch

    started = perf_counter()
    measurement = task.measurement
    torch.set_num_threads(measurement.settings.torch_threads)
    keep_freed_memory()
    journal = Journal(Layout(measurement.run).journal(task.digest))
    for group in journal.suspects.groups():
        journal.note_probe(group)
        _score_rows(task, _RowReader(task, group))
    reader = _RowReader(task, task.rows, journal=journal)
    scores, notes = _score_rows(task, reader)
    unusable = _unusable(task, notes, poison_rows=reader.poison_rows)
    batch_splits = BatchSplits(notes.num_splits, notes.fitting_units)
    rows = _span_file_rows(task, scores)
    measurement.catalog.write_span(task.digest, rows, batch_splits=batch_splits, unusable=unusable)
    journal.close()
    return replace(
        _result(scores, batch_splits, unusable),
        bytes_read=reader.bytes_read,
        seconds=perf_counter() - started,
        busy_seconds=notes.busy_seconds,
        num_truncated=notes.num_truncated,
        input_units=notes.input_units,
        padded_units=notes.padded_units,
    )


def _result(rows: pl.DataFrame, batch_splits: BatchSplits, unusable: Unusable) -> SpanResult:
    """Return the part of a result that a span file determines."""
    return SpanResult(
        num_samples=len(rows),
        num_units=int(rows[NUM_UNITS].cast(pl.UInt64).sum()),
        batch_splits=batch_splits,
        unusable=unusable,
        poison_rows=tuple(rows.filter(pl.col(STATUS) == KILLED)[ROW].to_list()),
    )


def _unusable(task: SpanTask, notes: "ScoringNotes", *, poison_rows: Sequence[int]) -> Unusable:
    """Return the samples of the span without a loss."""
    result = Unusable()
    result.update(notes.unusable, shard=task.shard.uri)
    for row in poison_rows:
        result.add(Example(task.shard.uri, row, KILLED, _KILLED))
    return result


def _score_rows(task: SpanTask, reader: "_RowReader") -> "tuple[pl.DataFrame, ScoringNotes]":
    """Score the rows of `reader`; poison rows get the status `killed` without being tried."""
    from trainers.scoring.scorer import ScoringNotes, score_rows

    measurement, notes = task.measurement, ScoringNotes()
    scores = score_rows(
        task_of(measurement),
        model_of(measurement),
        reader.samples(),
        settings=measurement.settings,
        notes=notes,
        on_scored=reader.journal.note_finished if reader.journal else None,
    )
    killed = [{ROW: row, NUM_UNITS: 0, STATUS: KILLED} for row in reader.poison_rows]
    return pl.concat([scores, pl.DataFrame(killed, schema=scores.schema)]).sort(ROW), notes


def _span_file_rows(task: SpanTask, scores: pl.DataFrame) -> pl.DataFrame:
    """Add the other columns of a span file to the scores."""
    return scores.with_columns(
        pl.lit(task.span.shard_id).alias(SHARD_ID),
        pl.lit(task.measurement.checkpoint.step).alias(MEASURED_STEP),
        pl.lit(SCORED).alias(ORIGIN),
        pl.lit(0).alias(VISITS),
    )


class _RowReader:
    """Reader of a span's samples, ahead of scoring."""

    def __init__(self, task: SpanTask, rows: range, *, journal: Journal | None = None) -> None:
        self._task, self._range = task, rows
        self._rows = _rows_to_measure(task, rows)
        self.journal = journal
        self.bytes_read = 0

    @property
    def poison_rows(self) -> tuple[int, ...]:
        """The rows to skip: each of them ended worker processes."""
        return self.journal.suspects.killers if self.journal else ()

    def samples(self) -> Iterator[tuple[int, Sample]]:
        """Yield (row, sample), noted in the journal, without poison rows."""
        skipped = set(self.poison_rows)
        kept = ((row, sample) for row, sample in self._read() if row not in skipped)
        if self.journal is None:
            return kept
        window = self._task.measurement.settings.window_samples
        return self.journal.note_samples(kept, window=window, end=self._range.stop)

    def _read(self) -> Iterator[tuple[int, Sample]]:
        shard, rows = self._task.shard, self._rows
        columns = tuple(self._task.measurement.task.columns)
        sample_bytes = max(1, shard.num_bytes // max(1, shard.num_samples))
        num_rows = max(1, _READ_BYTES // sample_bytes)
        reads = ordered_map(
            lambda part: (part, read_shard(shard, rows=part, columns=columns)),
            [rows[first : first + num_rows] for first in range(0, len(rows), num_rows)],
            num_threads=_READ_THREADS,
            budget=_READ_AHEAD_BYTES,
            cost=lambda part: len(part) * sample_bytes,
        )
        with closing(reads):
            for part, reading in reads:
                self.bytes_read += reading.bytes_read
                yield from zip(part, reading.samples, strict=True)


def _rows_to_measure(task: SpanTask, rows: range) -> Sequence[int]:
    """Return the rows of the task's subset that are in `rows`; without a subset, all of them."""
    if task.subset is None:
        return rows
    subset = rows_of_shard(task.subset.url, task.span.shard_id)
    return [row for row in subset.tolist() if row in rows]


def task_of(measurement: Measurement) -> Any:
    """Return the task, created once per process."""
    task = measurement.task
    return task.load() if isinstance(task, TaskReference) else task


_models: dict[str, "torch.nn.Module"] = {}
_models_lock = threading.Lock()


def model_of(measurement: Measurement) -> "torch.nn.Module":
    """Return the model that measures: the proxy, or the checkpoint's.

    A worker keeps the model of the latest checkpoint, and one proxy.
    """
    if measurement.proxy is not None:
        from trainers.scoring.saved_model import SavedModel

        assert measurement.settings.proxy is not None
        return SavedModel(measurement.settings.proxy, task_of(measurement)).open(measurement.proxy)
    key = f"{measurement.checkpoint.url} {measurement.checkpoint.weights_digest}"
    with _models_lock:
        if key not in _models:
            _models.clear()
            models = task_of(measurement).models(measurement.model)
            _models[key] = measurement.checkpoint.load(models).eval()
        return _models[key]
