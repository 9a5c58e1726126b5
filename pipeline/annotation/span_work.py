"""Measuring one span on a worker: read, measure, write the span file."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Final

import numpy as np
import polars as pl

from attent_select import schema
from attent_select.errors import InputError
from attent_select.stats.randomness import numpy_sample_uniform
from catalogs import AnnotationStore, storage
from catalogs.losses.catalog import Span
from catalogs.shard_format import Shard
from catalogs.shards import read_shard
from pipeline.cluster.worker_check import check_here, environment
from pipeline.scoring.journal import Journal
from trainers.allocator import keep_freed_memory
from trainers.annotation import FIELDS, AnnotationKind, Fitted, Regression

_BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Draw:
    """A random share of the samples; each sample is drawn for itself."""

    share: float
    key: int

    def rows_of(self, shard_id: int, rows: range) -> list[int]:
        """Return the drawn rows among `rows` of a shard."""
        numbers = np.arange(rows.start, rows.stop, dtype=np.uint32)
        shards = np.full(len(numbers), shard_id, np.uint32)
        draws = numpy_sample_uniform(self.key, shards, numbers)
        return numbers[draws <= self.share].tolist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Making:
    """What the values of an annotation depend on, except the sample: the same for all spans."""

    corpus: str
    name: str
    kind: AnnotationKind | Regression
    fit_digest: str
    fit_url: str = ""
    environment: Mapping[str, str] = field(default_factory=environment)

    @property
    def store(self) -> AnnotationStore:
        return AnnotationStore(self.corpus)

    def read_fit(self) -> Fitted:
        """Return the fit, read once per process."""
        url = self.fit_url or self.store.layout(self.name).model
        return _read_fit(url, self.fit_digest)


@dataclass(frozen=True, slots=True)
class SpanTask:
    """Measure one span, or the rows of it that `draw` has.

    Values of the finished spans `measured` replace those of the same rows.
    """

    shard: Shard
    span: Span
    digest: str
    making: Making
    draw: Draw | None = None
    measured: tuple[str, ...] | None = None

    @property
    def rows(self) -> range:
        return range(self.span.first_row, self.span.first_row + self.span.num_rows)

    @property
    def has_rows(self) -> bool:
        """Whether any row is measured; almost certain for a draw from many rows."""
        if self.draw is None or self.span.num_rows * self.draw.share > 100:
            return True
        return bool(self.rows_to_measure(self.rows))

    def rows_to_measure(self, rows: range) -> Sequence[int]:
        """Return those of `rows` that are measured."""
        return rows if self.draw is None else self.draw.rows_of(self.span.shard_id, rows)

    def __str__(self) -> str:
        return f"rows {self.rows.start} to {self.rows.stop - 1} of {self.shard.uri}"


@dataclass(frozen=True)
class SpanResult:
    """What measuring one span took; `seconds` are by step, of one core."""

    num_units: int
    seconds: Mapping[str, float]


def measure_span(task: SpanTask) -> SpanResult:
    """Measure one span and write its file. A task that runs twice writes the same bytes."""
    check_here(task.making.environment)
    keep_freed_memory()
    started, store, name = perf_counter(), task.making.store, task.making.name
    journal = Journal(store.layout(name).journal(task.digest))
    for group in journal.suspects.groups():
        journal.note_probe(group)
        _measure(task, group)
    frames: list[pl.DataFrame] = []
    tokenise_seconds = 0.0
    for rows in _batches(task, journal.suspects.killers):
        journal.note_rows(rows)
        if measured := _measure(task, rows):
            frames.append(measured[0])
            tokenise_seconds += measured[1]
    span_rows = _with_killed(pl.concat(frames) if frames else None, journal.suspects.killers)
    if task.measured is not None:
        known = [store.read_span(name, digest) for digest in task.measured]
        span_rows = _with_measured(span_rows, known)
    shard_id = pl.lit(task.span.shard_id, dtype=pl.UInt32).alias(schema.SHARD_ID)
    ordered = [pl.col(schema.ROW), pl.exclude(schema.ROW)]
    store.write_span(name, task.digest, span_rows.sort(schema.ROW).select(shard_id, *ordered))
    journal.close()
    units = span_rows[schema.NUM_UNITS].sum() if schema.NUM_UNITS in span_rows.columns else 0
    taken = {"measure": perf_counter() - started - tokenise_seconds, "tokenise": tokenise_seconds}
    return SpanResult(int(units or 0), taken)


def _measure(task: SpanTask, rows: range) -> tuple[pl.DataFrame, float] | None:
    """Return the values of rows and the seconds of tokenizing; None if no row is measured."""
    kind, numbers = task.making.kind, task.rows_to_measure(rows)
    if not numbers:
        return None
    samples = read_shard(task.shard, rows=numbers, columns=kind.columns).values
    try:
        measured, tokenise_seconds = kind.measure(samples, task.making.read_fit())
    except InputError as error:
        raise InputError(f"{task}: {error}") from error
    if len(measured) != len(numbers):
        raise InputError(f"{task}: the kind returned {len(measured)} rows, expected {len(numbers)}")
    row = pl.Series(schema.ROW, numbers, dtype=pl.UInt32)
    return measured.with_columns(row), tokenise_seconds


def _batches(task: SpanTask, killers: tuple[int, ...]) -> Iterator[range]:
    """Yield the rows of the span in ranges of about 8 MiB, without those that ended processes."""
    sample_bytes = max(1, task.shard.num_bytes // max(1, task.shard.num_samples))
    share = 1.0 if task.draw is None else task.draw.share
    size = max(1, int(_BATCH_BYTES / share) // sample_bytes)
    first = task.rows.start
    for end in (*sorted(killers), task.rows.stop):
        for start in range(first, end, size):
            yield range(start, min(start + size, end))
        first = end + 1


def _with_killed(rows: pl.DataFrame | None, killers: tuple[int, ...]) -> pl.DataFrame:
    if rows is None:
        raise InputError(f"each row of a span ends the process that reads it: rows {killers}")
    killed = pl.DataFrame(
        {schema.ROW: list(killers), schema.STATUS: [schema.KILLED] * len(killers)},
        schema={schema.ROW: pl.UInt32, schema.STATUS: pl.String},
    )
    return pl.concat([rows, killed], how="diagonal")


def _with_measured(predicted: pl.DataFrame, known: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Replace predicted values by measured ones; `measured` says which rows have them.

    A measured row without a value keeps its status. Further columns, which the other rows lack, are
    left out.
    """
    measured = pl.lit(value=True).alias("measured")
    value = pl.col("value").cast(pl.Float32)
    rows = [frame.select(schema.ROW, value, schema.STATUS, measured) for frame in known]
    if not rows:
        return predicted.with_columns(~measured)
    joined = predicted.join(pl.concat(rows), on=schema.ROW, how="left", suffix="_known")
    is_measured = pl.col("measured").fill_null(value=False)
    return joined.with_columns(
        is_measured,
        *(
            pl.when(is_measured).then(pl.col(f"{name}_known")).otherwise(pl.col(name)).alias(name)
            for name in ("value", schema.STATUS)
        ),
    ).drop("value_known", f"{schema.STATUS}_known")


@functools.lru_cache(maxsize=2)
def _read_fit(url: str, digest: str) -> Fitted:
    fitted = Fitted.from_bytes(storage.read(url))
    if fitted.digest != digest:
        raise InputError(
            f"{url} was replaced while the annotation is made: another `attent annotate` makes one"
            " of that name. Wait for it, or choose another name"
        )
    return fitted


def settings_of(kind: AnnotationKind) -> dict[str, Any]:
    """Return the settings of a kind as plain values."""
    keys = {field: key for key, field in FIELDS.items()}
    values = asdict(kind)  # type: ignore[call-overload]
    return {keys.get(name, name): values[name] for name in values}
