"""The driver of an annotation: fit, measure spans on the cluster, build parts, publish the record.

A driver that is killed at any moment redoes only unfinished spans. The rows are the same for any
number of workers.
"""

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

import numpy as np
import polars as pl

from attent_select.errors import ExistsError, InputError
from attent_select.schema import ROW, SHARD_ID
from catalogs import AnnotationStore, storage
from catalogs.annotations.record import Annotation
from catalogs.annotations.store import VALUE, BuiltPart
from catalogs.tables.scan import Scan
from pipeline.annotation.derived import columns_used, derive_parts
from pipeline.annotation.enrichment import LARGEST_FIRST, enrichment_of
from pipeline.annotation.extending.predictor import (
    Predictor,
    draw_of,
    fit_predictor,
    regression_of,
)
from pipeline.annotation.linking import build_linked_parts
from pipeline.annotation.parts import BUCKET_ROWS, build_parts
from pipeline.annotation.pool_sample import pool_sample
from pipeline.annotation.span_work import Making, SpanTask, measure_span, settings_of
from pipeline.annotation.stored_values import sample_values, warn_if_constant
from pipeline.annotation.targets import Target, check_columns
from pipeline.cluster import Client, run_tasks, worker_check
from pipeline.config.extension_settings import Extension
from pipeline.progress import progress, status
from pipeline.scoring.spans import split_into_spans, with_digests
from trainers.allocator import keep_freed_memory
from trainers.annotation import (
    HELD_OUT,
    AnnotationKind,
    FitContext,
    Fitted,
    FromAnnotations,
    HasLinks,
    HasModelFiles,
    HasResolve,
)

_log = logging.getLogger("attent.pipeline.annotation.make")


@dataclass(frozen=True)
class Request:
    """The annotation to make.

    Attributes:
        corpus: URL of a corpus or a run.
        name: of the annotation.
        kind_name: what the record says made it.
        kind: its settings.
        target: examples, where the kind needs them.
        seed: of random parts of the corpus.
        overwrite: replace an annotation of that name.
        span_samples: rows of a span.
        part_samples: rows of a part.
        bucket_rows: rows that a worker resolves at a time, for kinds that compare samples.
        extension: measure a random part of the samples and predict the others.
    """

    corpus: str
    name: str
    kind_name: str
    kind: AnnotationKind
    target: Target | None = None
    seed: int = 0
    overwrite: bool = False
    span_samples: int = 20_000
    part_samples: int = 2_000_000
    bucket_rows: int = BUCKET_ROWS
    extension: Extension | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the kind and of the extension."""
        return settings_of(self.kind) | (asdict(self.extension) if self.extension else {})

    def file_digests(self) -> dict[str, str]:
        """Return the digests of the models behind the values, as the record has them."""
        kind, extension = self.kind, self.extension
        regression = regression_of(extension, kind) if extension is not None else None
        digests = dict(kind.file_digests()) if isinstance(kind, HasModelFiles) else {}
        if isinstance(regression, HasModelFiles):
            digests |= _of_extension(regression.file_digests())
        return digests

    @property
    def sign(self) -> int:
        """−1 if the smallest values are the best ones."""
        return -1 if getattr(self.kind, "smallest_first", False) else 1

    @functools.cached_property
    def store(self) -> AnnotationStore:
        return AnnotationStore(self.corpus)

    def check(self) -> None:
        """Check what can be checked without a cluster.

        Raises:
            ExistsError: there is an annotation of that name.
            InputError: the corpus lacks a column that is read, or an annotation.
        """
        record = self.store.layout(self.name).record
        if self.extension is not None and isinstance(
            self.kind, FromAnnotations | HasLinks | HasResolve
        ):
            raise InputError(
                f"--sample: the kind {self.kind_name} does not measure samples one by one: leave"
                " out --sample and --extend"
            )
        if self.extension is not None:
            columns = regression_of(self.extension, self.kind).columns
            check_columns(self.store.corpus, columns, what="the corpus")
        if isinstance(self.kind, FromAnnotations):
            columns_used(self.store, self.name, self.kind)
        else:
            check_columns(self.store.corpus, self.kind.columns, what="the corpus")
        if not self.overwrite and storage.info(record) is not None:
            raise ExistsError(
                f"the annotation {self.name} exists: choose another name, or give --overwrite"
            )


@dataclass
class _Costs:
    """Units and seconds of one core by step, summed over spans."""

    units: int = 0
    seconds: Counter[str] = field(default_factory=Counter)


def make_annotation(request: Request, *, client: Client) -> Annotation:
    """Make and publish an annotation. Spans that an interrupted call has measured are kept.

    Raises:
        ExistsError: there is an annotation of that name.
        InputError: the corpus or the target does not have what the kind needs.
        ClusterError: the cluster was lost; call again to resume.
    """
    started = monotonic()
    request.check()
    store, shard = request.store, request.store.corpus.shards[0]
    worker_check.check_workers(client, objects={shard.uri: shard.etag}, needs_gpu=False)
    if isinstance(request.kind, FromAnnotations):
        return _derive(request, client=client, started=started)
    with status("fitting"):
        fitted = _fit(request)
    fit_seconds = monotonic() - started
    storage.publish(store.layout(request.name).model, fitted.to_bytes())
    making = Making(store.url, request.name, request.kind, fitted.digest)
    tasks = list(_span_tasks(request, making))
    costs = _measure_spans(client, [task for task in tasks if task.has_rows], store=store)
    predictor: Predictor | None = None
    if request.extension is not None:
        predictor = _fit_predictor(request, tasks)
        tasks = predictor.tasks(tasks, url=store.layout(request.name).predictor)
        costs.seconds["extend"] = sum(_measure_spans(client, tasks, store=store).seconds.values())
    parts = _build_parts(request, tasks, client=client)
    seconds = {"fit": fit_seconds, **costs.seconds, "total": monotonic() - started}
    annotation = store.publish(
        request.name,
        kind=request.kind_name,
        parts=parts,
        overwrite=request.overwrite,
        settings={**request.settings, "seed": request.seed},
        digests=_digests(request, fitted, predictor),
        seconds=seconds,
        units=costs.units,
        fidelity=predictor.fidelity if predictor is not None else {},
        enrichment=_enrichment(request, fitted, predictor, parts),
    )
    warn_if_constant(store, annotation)
    return annotation


def complete_annotation(request: Request, *, client: Client) -> Annotation:
    """Measure the shards that were appended since an annotation was made, with what it was fitted
    to then, and publish it for the new version of the corpus.

    Kinds that compare samples measure all shards again. An annotation that is complete is returned.

    Raises:
        MissingError: there is no such annotation.
        InputError: it was made with other files of its model.
        ClusterError: the cluster was lost; call again to resume.
    """
    started, store = monotonic(), request.store
    known = store.incomplete(request.name)
    if known is None:
        return store.read(request.name)
    shard = store.corpus.shards[-1]
    worker_check.check_workers(client, objects={shard.uri: shard.etag}, needs_gpu=False)
    if isinstance(request.kind, FromAnnotations):
        return _derive(request, client=client, started=started, completes=known)
    _check_same_files(request, known)
    layout = store.layout(request.name)
    fitted = Fitted.from_bytes(storage.read(layout.model))
    making = Making(store.url, request.name, request.kind, fitted.digest)
    compares = isinstance(request.kind, HasLinks | HasResolve)
    first = 0 if compares else known.num_shards
    tasks = [t for t in _span_tasks(request, making) if t.shard.shard_id >= first]
    costs = _measure_spans(client, [task for task in tasks if task.has_rows], store=store)
    if request.extension is not None:
        regression = regression_of(request.extension, request.kind)
        fitted = Fitted.from_bytes(storage.read(layout.predictor))
        predictor = Predictor(regression, fitted, dict(known.fidelity))
        tasks = predictor.tasks(tasks, url=layout.predictor)
        _measure_spans(client, tasks, store=store)
    parts = _build_parts(request, tasks, client=client)
    return store.publish(
        request.name,
        kind=request.kind_name,
        parts=parts if compares else [*_kept_parts(known), *parts],
        completes=known,
        settings=known.settings,
        digests=known.digests,
        seconds={**known.seconds, "complete": monotonic() - started},
        units=costs.units if compares else known.units + costs.units,
        fidelity=known.fidelity,
        enrichment=known.enrichment,
    )


def _kept_parts(known: Annotation) -> Iterator[BuiltPart]:
    """Yield the parts of an annotation; the first has the statuses of all."""
    for number, part in enumerate(known.parts):
        yield BuiltPart(part, statuses={} if number else known.statuses)


def _check_same_files(request: Request, known: Annotation) -> None:
    for name, digest in request.file_digests().items():
        if known.digests.get(name) != digest:
            raise InputError(
                f"annotation {request.name} was made with another {name} (digest"
                f" {known.digests.get(name)}, now {digest}): restore it, or make the annotation"
                " again with --overwrite"
            )


def _fit_predictor(request: Request, tasks: Sequence[SpanTask]) -> Predictor:
    """Fit the predictor of the extension to the measured samples, and store it."""
    assert request.extension is not None
    with status("extending"):
        predictor = fit_predictor(
            tasks,
            regression_of(request.extension, request.kind),
            extension=request.extension,
            seed=request.seed,
            sign=request.sign,
        )
    url = request.store.layout(request.name).predictor
    storage.publish(url, predictor.fitted.to_bytes())
    return predictor


def _digests(request: Request, fitted: Fitted, predictor: Predictor | None) -> dict[str, str]:
    """Return the digests for the record."""
    digests = dict(fitted.digests)
    if request.target is not None:
        digests["target"] = request.target.digest
    return digests | (_of_extension(predictor.fitted.digests) if predictor is not None else {})


def _of_extension(digests: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of an extension's model under the names that the record has."""
    return {f"extend_{name}": digest for name, digest in digests.items()}


def _derive(
    request: Request, *, client: Client, started: float, completes: Annotation | None = None
) -> Annotation:
    """Make an annotation of others."""
    store, kind = request.store, request.kind
    used = columns_used(store, request.name, kind)
    making = Making(store.url, request.name, kind, fit_digest="")
    parts = derive_parts(making, used, client=client, part_samples=request.part_samples)
    annotation = store.publish(
        request.name,
        kind=request.kind_name,
        parts=parts,
        overwrite=request.overwrite,
        completes=completes,
        settings=settings_of(kind),
        annotations=used.digests,
        seconds={"total": monotonic() - started},
    )
    warn_if_constant(store, annotation)
    return annotation


def _fit(request: Request) -> Fitted:
    keep_freed_memory()
    draw = functools.partial(
        pool_sample, request.store.corpus, columns=request.kind.columns, seed=request.seed
    )
    target = request.target
    making, judging = (target.making, target.judging) if target is not None else (None, None)
    folder = request.store.layout(request.name).fitted
    context = FitContext(
        making,
        draw,
        folder=folder,
        seed=request.seed,
        judging=judging,
        examples=target.examples if target is not None else None,
    )
    return request.kind.fit(context)


def _span_tasks(request: Request, making: Making) -> Iterator[SpanTask]:
    draw = None if request.extension is None else draw_of(request.extension, seed=request.seed)
    facts = {
        "kind": request.kind_name,
        "settings": settings_of(request.kind),
        "fit": making.fit_digest,
        **({"draw": asdict(draw)} if draw else {}),
    }
    shards = request.store.corpus.shards
    spans = split_into_spans(shards, span_samples=request.span_samples)
    for shard, span, digest in with_digests(spans, measured_by=facts):
        yield SpanTask(shard, span, digest, making, draw)


def _measure_spans(client: Client, tasks: Sequence[SpanTask], *, store: AnnotationStore) -> _Costs:
    finished = store.span_digests(tasks[0].making.name)
    waiting = [task for task in tasks if task.digest not in finished]
    costs, total = _Costs(), sum(task.span.num_rows for task in waiting)
    with progress("annotating", total=total, unit="samples") as advance:
        for task, result in run_tasks(client, measure_span, waiting, on_death=_warn):
            costs.units += result.num_units
            costs.seconds.update(result.seconds)
            advance(task.span.num_rows)
    return costs


def _warn(task: SpanTask) -> None:
    _log.warning(f"the worker that measured {task} ended: trying again")


def _build_parts(request: Request, tasks: Sequence[SpanTask], *, client: Client) -> list[BuiltPart]:
    sizes = {"part_samples": request.part_samples, "bucket_rows": request.bucket_rows}
    if isinstance(request.kind, HasLinks):
        return build_linked_parts(tasks, request.kind.links, client=client, **sizes)
    return build_parts(tasks, client=client, **sizes)


def _enrichment(
    request: Request, fitted: Fitted, predictor: Predictor | None, parts: Iterable[BuiltPart]
) -> Mapping[str, Any]:
    """Return the enrichment by the judging examples; empty without a target, or without numbers.

    These examples are measured or predicted, as most of the corpus was.
    """
    judging = request.target.judging if request.target is not None else None
    if judging is None or not judging.num_examples:
        return {}
    measured = (
        request.kind.measure(judging.samples, fitted)
        if predictor is None
        else predictor.measure(judging.samples)
    ).rows
    if not measured.schema[VALUE].is_numeric():
        return {}
    values = measured[VALUE].cast(pl.Float64).fill_null(np.nan).to_numpy()
    sign = request.sign
    corpus = sample_values(
        _scan_of(request, parts), num_samples=request.store.corpus.num_samples, seed=request.seed
    )
    held_out = fitted.arrays.get(HELD_OUT) if predictor is None else None
    enrichment = enrichment_of(
        sign * corpus,
        sign * values,
        kinds=judging.kinds,
        held_out=None if held_out is None else sign * held_out,
    )
    return enrichment | {LARGEST_FIRST: sign > 0}


def _scan_of(request: Request, parts: Iterable[BuiltPart]) -> Scan:
    """Return the values of parts that are not published yet."""
    layout = request.store.layout(request.name)
    urls = [layout.part(each.part.part) for each in sorted(parts, key=lambda b: b.part.first_shard)]
    kinds: dict[str, Any] = {SHARD_ID: pl.UInt32, ROW: pl.UInt32, VALUE: pl.Float32}
    return Scan.of(urls, schema=kinds)
