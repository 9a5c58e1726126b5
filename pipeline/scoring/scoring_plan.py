"""The scoring plan of a round: its span tasks, frozen before the first one is measured.

The plan fixes the batch size. What is learned about memory while scoring counts from the next plan
on, never within one: a loss can differ in its last bits with the batch it was computed in.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import MissingError
from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.layout import Layout
from catalogs.losses import pools
from catalogs.losses.catalog import Span
from catalogs.tables import frames
from pipeline.config.canonical_json import plain_values
from pipeline.scoring.span_task import Measurement, RowSubset, SpanTask
from pipeline.scoring.spans import split_into_spans, with_digests

_log = logging.getLogger("attent.pipeline.scoring.scoring_plan")

_PLAN: dict[str, Any] = {
    schema.SHARD_ID: pl.UInt32,
    "first_row": pl.UInt32,
    "num_rows": pl.UInt32,
    "etag": pl.String,
    "digest": pl.String,
}


@dataclass(frozen=True)
class ScoringPlan:
    """The span tasks of a round in order, and the measurement with its frozen batch size.

    `learned_units` is the batch size where it is smaller than the configured one.
    """

    measurement: Measurement
    tasks: tuple[SpanTask, ...]
    learned_units: int | None = None


def freeze_plan(
    catalog: LossCatalog, measurement: Measurement, *, round_number: int
) -> ScoringPlan:
    """Return the plan that was frozen for the round; without one, make and write it.

    A plan that was frozen for other weights or settings never led to a snapshot, and is replaced.
    """
    url = Layout(measurement.run).plan(round_number)
    about = {
        "corpus_id": catalog.corpus.corpus_id,
        "measured_by": plain_values(measurement.facts),
        "span_samples": measurement.settings.span_samples,
    }
    frozen = _read_plan(url, about=about, corpus=catalog.corpus, measurement=measurement)
    if frozen is not None:
        return frozen
    learned_units = _learned_units(catalog, measurement)
    limited = _with_batch_units(measurement, learned_units)
    plan = ScoringPlan(limited, tuple(span_tasks(catalog.corpus, limited)), learned_units)
    rows = [
        (t.span.shard_id, t.span.first_row, t.span.num_rows, t.shard.etag, t.digest)
        for t in plan.tasks
    ]
    table = pl.DataFrame(rows, schema=_PLAN, orient="row")
    frames.publish_frame(url, table, notes={"about": about, "learned_units": learned_units})
    return plan


def with_learned_batch_units(catalog: LossCatalog, measurement: Measurement) -> Measurement:
    """Limit batches to what fitted into memory when the round before was scored."""
    return _with_batch_units(measurement, _learned_units(catalog, measurement))


def span_tasks(corpus: Corpus, measurement: Measurement) -> Iterator[SpanTask]:
    """Yield one task for each span of the corpus, in order."""
    spans = split_into_spans(corpus.shards, span_samples=measurement.settings.span_samples)
    for shard, span, digest in with_digests(spans, measured_by=measurement.facts):
        yield SpanTask(shard, span, digest, measurement)


def subset_tasks(rows: IndexFile, measurement: Measurement) -> Iterator[SpanTask]:
    """Yield one task for each span that has some of `rows`, in order."""
    corpus, span_samples = measurement.catalog.corpus, measurement.settings.span_samples
    one = pl.lit(1, dtype=pl.UInt32).alias("num_rows")
    counts = rows.frame().select(schema.SHARD_ID, one).group_by(schema.SHARD_ID).sum()
    facts = dict(measurement.facts) | {"picked": rows.digest}
    for shard_id, num_rows in counts.collect(engine="streaming").sort(schema.SHARD_ID).iter_rows():
        shard = corpus.shard(shard_id)
        most = -(-span_samples * shard.num_samples // num_rows)
        spans = list(split_into_spans([shard], span_samples=most))
        for number, (_, span, digest) in enumerate(with_digests(spans, measured_by=facts)):
            first, end = (num_rows * edge // len(spans) for edge in (number, number + 1))
            yield SpanTask(shard, span, digest, measurement, RowSubset(rows.url, end - first))


def _read_plan(
    url: str, *, about: Mapping[str, Any], corpus: Corpus, measurement: Measurement
) -> ScoringPlan | None:
    try:
        table, notes = frames.read_frame(url, schema=_PLAN)
    except MissingError:
        return None
    if notes["about"] != about:
        return None
    learned_units = notes["learned_units"]
    limited = _with_batch_units(measurement, learned_units)
    return ScoringPlan(limited, tuple(_tasks(table.iter_rows(), corpus, limited)), learned_units)


def _tasks(
    rows: Iterable[tuple[Any, ...]], corpus: Corpus, measurement: Measurement
) -> Iterator[SpanTask]:
    for shard_id, first_row, num_rows, _, digest in rows:
        span = Span(shard_id=shard_id, first_row=first_row, num_rows=num_rows)
        yield SpanTask(corpus.shard(shard_id), span, digest, measurement)


def _learned_units(catalog: LossCatalog, measurement: Measurement) -> int | None:
    """Return the units of a batch that fitted when the round before was scored, if larger ones
    did not.
    """
    learned_units = provenance_before(catalog).get("fitting_units")
    if learned_units is None or learned_units >= measurement.settings.batch_units:
        return None
    _log.warning(
        f"batches are limited to {learned_units} units instead of scoring.batch_units "
        f"{measurement.settings.batch_units}: larger ones did not fit into memory before"
    )
    return int(learned_units)


def provenance_before(catalog: LossCatalog) -> dict[str, Any]:
    """Return what the newest scoring has noted about itself: nothing if there is none."""
    if rounds := catalog.rounds():
        return catalog.provenance(rounds[-1])
    drawn = pools.pool_rounds(catalog.run)
    return pools.pool_provenance(catalog, drawn[-1]) if drawn else {}


def _with_batch_units(measurement: Measurement, units: int | None) -> Measurement:
    if units is None:
        return measurement
    settings = replace(measurement.settings, batch_units=units)
    return replace(measurement, settings=settings)
