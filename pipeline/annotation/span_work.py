"""Measuring one span on a worker: read, measure, write the span file."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Final

import polars as pl

from attent_select import schema
from attent_select.errors import InputError
from catalogs import AnnotationStore, storage
from catalogs.corpus import read_shard
from catalogs.losses.catalog import Span
from catalogs.shard_format import Shard
from pipeline.cluster.worker_check import check_here, environment
from pipeline.scoring.allocator import keep_freed_memory
from pipeline.scoring.journal import Journal
from trainers.annotation import FIELDS, AnnotationKind, Fitted

_BATCH_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Making:
    """What the values of an annotation depend on, except the sample: the same for all spans."""

    corpus: str
    name: str
    kind: AnnotationKind
    fit_digest: str
    environment: Mapping[str, str] = field(default_factory=environment)

    @property
    def store(self) -> AnnotationStore:
        return AnnotationStore(self.corpus)

    def read_fit(self) -> Fitted:
        """Return the fit, read once per process."""
        return _read_fit(self.store.layout(self.name).model, self.fit_digest)


@dataclass(frozen=True, slots=True)
class SpanTask:
    """Measure one span."""

    shard: Shard
    span: Span
    digest: str
    making: Making

    @property
    def rows(self) -> range:
        return range(self.span.first_row, self.span.first_row + self.span.num_rows)

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
        measured, seconds = _measure(task, rows)
        frames.append(measured)
        tokenise_seconds += seconds
    span_rows = _with_killed(pl.concat(frames) if frames else None, journal.suspects.killers)
    shard_id = pl.lit(task.span.shard_id, dtype=pl.UInt32).alias(schema.SHARD_ID)
    ordered = [pl.col(schema.ROW), pl.exclude(schema.ROW)]
    store.write_span(name, task.digest, span_rows.sort(schema.ROW).select(shard_id, *ordered))
    journal.close()
    units = span_rows[schema.NUM_UNITS].sum() if schema.NUM_UNITS in span_rows.columns else 0
    taken = {"measure": perf_counter() - started - tokenise_seconds, "tokenise": tokenise_seconds}
    return SpanResult(int(units or 0), taken)


def _measure(task: SpanTask, rows: range) -> tuple[pl.DataFrame, float]:
    kind = task.making.kind
    samples = read_shard(task.shard, rows=rows, columns=kind.columns).values
    try:
        measured, tokenise_seconds = kind.measure(samples, task.making.read_fit())
    except InputError as error:
        raise InputError(f"{task}: {error}") from error
    if len(measured) != len(rows):
        raise InputError(f"{task}: the kind returned {len(measured)} rows, expected {len(rows)}")
    numbers = pl.Series(schema.ROW, rows, dtype=pl.UInt32)
    return measured.with_columns(numbers), tokenise_seconds


def _batches(task: SpanTask, killers: tuple[int, ...]) -> Iterator[range]:
    """Yield the rows of the span in ranges of about 8 MiB, without those that ended processes."""
    sample_bytes = max(1, task.shard.num_bytes // max(1, task.shard.num_samples))
    size = max(1, _BATCH_BYTES // sample_bytes)
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
