"""The plan of a round's scoring: its spans and their digests, frozen before the first is measured.

Making a plan and keeping it at rest. A plan says how large a batch may be: what was learned
about that while scoring counts from the next plan on, never in the middle of one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from attent_select import schema
from attent_select.errors import MissingError
from catalogs import Corpus, LossCatalog
from catalogs.layout import Layout
from catalogs.losses.catalog import Span
from catalogs.shard_format import Shard
from catalogs.tables import frames
from pipeline.console import say
from pipeline.scoring import spans
from pipeline.scoring.worker import Measurement, SpanTask

_PLAN: dict[str, Any] = {
    schema.SHARD_ID: pl.UInt32,
    "first_row": pl.UInt32,
    "num_rows": pl.UInt32,
    "etag": pl.String,
    "digest": pl.String,
}


@dataclass(frozen=True)
class Plan:
    """What a round measures, in order, and the measurement with its frozen batch size.

    `learned_units` is that batch size, where it is not the configuration's.
    """

    measurement: Measurement
    tasks: tuple[SpanTask, ...]
    learned_units: int | None


def frozen(
    catalog: LossCatalog, measurement: Measurement, *, round_number: int, shards: Sequence[Shard]
) -> Plan:
    """The plan of the round: the one that was frozen, or one of `shards` made now and written.

    A plan that was frozen for other weights or settings never came to a snapshot, and is replaced.
    """
    corpus, url = catalog.corpus, Layout(measurement.run).plan(round_number)
    about = {
        "corpus_id": corpus.corpus_id,
        "measured_by": spans.plain(measured_by(measurement)),
        "span_samples": measurement.settings.span_samples,
    }
    found = _read(url, about=about, corpus=corpus, measurement=measurement)
    if found is not None:
        return found
    learned = _learned_units(catalog, measurement)
    smaller = _limited(measurement, learned)
    plan = Plan(smaller, tuple(plan_tasks(shards, smaller)), learned)
    rows = [
        (t.span.shard_id, t.span.first_row, t.span.num_rows, t.shard.etag, t.digest)
        for t in plan.tasks
    ]
    table = pl.DataFrame(rows, schema=_PLAN, orient="row")
    notes = {"about": about, "learned_units": learned}
    frames.publish_frame(url, table, notes=notes)
    return plan


def limited(catalog: LossCatalog, measurement: Measurement) -> Measurement:
    """With batches as large as fitted into memory when the round before was scored."""
    return _limited(measurement, _learned_units(catalog, measurement))


def plan_tasks(shards: Sequence[Shard], measurement: Measurement) -> list[SpanTask]:
    """One task for each span of `shards`, in order."""
    by = measured_by(measurement)
    planned = spans.plan(shards, span_samples=measurement.settings.span_samples)
    return [
        SpanTask(shard, span, digest, measurement)
        for shard, span, digest in spans.digests(planned, measured_by=by)
    ]


def measured_by(measurement: Measurement) -> Mapping[str, Any]:
    """Everything that a loss depends on but the sample."""
    return {
        "weights": measurement.checkpoint.weights_digest,
        "step": measurement.checkpoint.step,
        "task": measurement.task,
        # How much may fail does not change what is measured.
        "settings": measurement.settings.model_dump(exclude={"max_failed_share", "part_samples"}),
    }


def _read(
    url: str, *, about: Mapping[str, Any], corpus: Corpus, measurement: Measurement
) -> Plan | None:
    try:
        table, notes = frames.read_frame(url, schema=_PLAN)
    except MissingError:
        return None
    if notes["about"] != about:
        return None
    learned = notes["learned_units"]
    smaller = _limited(measurement, learned)
    return Plan(smaller, tuple(_tasks(table.iter_rows(), corpus, smaller)), learned)


def _tasks(
    rows: Iterable[tuple[Any, ...]], corpus: Corpus, measurement: Measurement
) -> Iterator[SpanTask]:
    for shard_id, first_row, num_rows, _, digest in rows:
        span = Span(shard_id=shard_id, first_row=first_row, num_rows=num_rows)
        yield SpanTask(corpus.shard(shard_id), span, digest, measurement)


def _learned_units(catalog: LossCatalog, measurement: Measurement) -> int | None:
    """Units of a batch that fitted when the round before was scored, if larger ones did not."""
    rounds = catalog.rounds()
    learned = catalog.provenance(rounds[-1]).get("fitting_units") if rounds else None
    if learned is None or learned >= measurement.settings.batch_units:
        return None
    say(
        f"batches of at most {learned} units instead of scoring.batch_units "
        f"{measurement.settings.batch_units}: larger ones did not fit into memory before"
    )
    return int(learned)


def _limited(measurement: Measurement, learned_units: int | None) -> Measurement:
    if learned_units is None:
        return measurement
    settings = measurement.settings.model_copy(update={"batch_units": learned_units})
    return replace(measurement, settings=settings)
