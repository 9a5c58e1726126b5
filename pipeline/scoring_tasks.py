"""What scoring does on a worker: measure one span, or make one part of finished spans.

Here: the tasks (small, picklable), reading ahead, the model that a worker keeps. Not here:
planning and committing (`scoring.py`), computing losses (`trainers/scorer.py`). A task that runs
twice writes the same bytes to the same place.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.schema import MEASURED_STEP, ORIGIN, SCORED, SHARD_ID, VISITS
from catalogs import LossCatalog
from catalogs.corpus import read_shard
from catalogs.index import rows_of_shard
from catalogs.losses import PartSummary, Span
from catalogs.shard_format import Sample, Shard
from pipeline.settings import ScoringSettings

if TYPE_CHECKING:
    import torch

    from trainers.checkpoint import Checkpoint

_READ_BYTES = 16 << 20
_READ_THREADS = 2
_AHEAD_BYTES = 64 << 20


@dataclass(frozen=True)
class Measurement:
    """Everything that a loss depends on but the sample, the same for all spans of a round."""

    run: str
    task: Any
    model: dict[str, Any]
    checkpoint: "Checkpoint"
    settings: ScoringSettings

    @property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.run, carry=self.settings.carry_schema)


@dataclass(frozen=True)
class Picks:
    """Some rows of a span: those in the index file `url`, `num_rows` of them."""

    url: str
    num_rows: int


@dataclass(frozen=True)
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
    """What measuring a span came across: batches halved for memory, samples cut to their limit."""

    num_splits: int
    num_truncated: int


def measure_span(task: SpanTask) -> Measured:
    """Measures one span and writes its file."""
    import torch

    from trainers.scorer import ScoringNotes, score_rows

    measurement, settings = task.measurement, task.measurement.settings
    torch.set_num_threads(settings.torch_threads)
    carried: dict[str, list[Any]] = {name: [] for name in settings.carry}
    notes = ScoringNotes()
    rows = score_rows(
        measurement.task,
        _model(measurement),
        _samples(task, carried=carried),
        settings=settings,
        notes=notes,
    )
    rows = rows.with_columns(
        pl.lit(task.span.shard_id).alias(SHARD_ID),
        pl.lit(measurement.checkpoint.step).alias(MEASURED_STEP),
        pl.lit(SCORED).alias(ORIGIN),
        pl.lit(0).alias(VISITS),
        *(
            pl.Series(name, values, dtype=settings.carry_schema[name], strict=False)
            for name, values in carried.items()
        ),
    )
    measurement.catalog.write_span(task.digest, rows)
    return Measured(notes.num_splits, notes.num_truncated)


def compact_part(task: CompactTask) -> PartSummary:
    """Makes one part of its span files."""
    return task.measurement.catalog.compact(task.digests, round_number=task.round_number)


def _samples(task: SpanTask, *, carried: dict[str, list[Any]]) -> Iterator[tuple[int, Sample]]:
    """(row, sample) of the span, read ahead; what is carried along is put aside on the way."""
    from trainers.readahead import ordered_map

    shard = task.shard
    columns = tuple(dict.fromkeys([*task.measurement.task.columns, *carried]))
    sample_bytes = max(1, shard.num_bytes // max(1, shard.num_samples))
    chunk = max(1, _READ_BYTES // sample_bytes)
    wanted = _rows(task)
    chunks = [wanted[first : first + chunk] for first in range(0, len(wanted), chunk)]
    readings = ordered_map(
        lambda rows: (rows, read_shard(shard, rows=rows, columns=columns)),
        chunks,
        num_threads=_READ_THREADS,
        budget=_AHEAD_BYTES,
        cost=lambda rows: len(rows) * sample_bytes,
    )
    for rows, reading in readings:
        for row, sample in zip(rows, reading.samples, strict=True):
            for name, values in carried.items():
                values.append(sample[name])
            yield row, sample


def _rows(task: SpanTask) -> Sequence[int]:
    first, end = task.span.first_row, task.span.first_row + task.span.num_rows
    if task.picks is None:
        return range(first, end)
    rows = rows_of_shard(task.picks.url, task.span.shard_id)
    return [row for row in rows.tolist() if first <= row < end]


_loaded: dict[str, "torch.nn.Module"] = {}
_loading = threading.Lock()


def _model(measurement: Measurement) -> "torch.nn.Module":
    """The checkpoint's model, loaded once per worker; the one before it is let go."""
    key = f"{measurement.checkpoint.url} {measurement.checkpoint.weights_digest}"
    with _loading:
        if key not in _loaded:
            _loaded.clear()
            models = measurement.task.models(measurement.model)
            _loaded[key] = measurement.checkpoint.load(models).eval()
        return _loaded[key]
