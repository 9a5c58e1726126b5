"""Annotations from the command line: make one, delete one, list them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from attent_select.errors import InputError
from catalogs import AnnotationStore
from catalogs.annotations.record import Annotation
from catalogs.annotations.store import VALUE
from catalogs.mixture import NAME
from pipeline.annotation.enrichment import LARGEST_FIRST, TOP_SHARE, enrichment_of, top_cut
from pipeline.annotation.judged_rows import WANTED, read_judged
from pipeline.annotation.make import Request, complete_annotation, make_annotation
from pipeline.annotation.prospects import Prospect
from pipeline.annotation.stored_values import rows_beside_cut, sample_values, values_of_rows
from pipeline.annotation.targets import check_columns, target_for, target_settings
from pipeline.cluster import cluster_at, connect
from pipeline.config import annotation_kinds, credentials, trust
from pipeline.config.extension_settings import EXTEND_MODEL, EXTENSION_KEYS, Extension, extension_in
from pipeline.config.shard_settings import TargetSettings
from pipeline.config.yaml_values import replace_keys
from pipeline.corpus.part_names import annotate_names
from trainers.annotation import AnnotationKind

# Types of values that have an order.
_NUMBERS: Final = ("Float32", "Int64")


@dataclass(frozen=True)
class AnnotationResult:
    """A finished annotation; `seconds` by step, `coverage` the share of rows with a value."""

    name: str
    kind: str
    num_rows: int
    coverage: float
    fidelity: Mapping[str, Any]
    seconds: Mapping[str, float]
    digest: str
    units: int
    statuses: Mapping[str, int]
    enrichment: Mapping[str, Any]

    @classmethod
    def of(cls, annotation: Annotation) -> "AnnotationResult":
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(annotation, name) for name in names})


def annotate(
    corpus: str,
    *,
    name: str,
    kind: str | None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    model: str | None = None,
    tokenizer: str | None = None,
    target: TargetSettings | Sequence[str] | None = None,
    extension: Extension | None = None,
    seed: int = 0,
    overwrite: bool = False,
    scheduler: str | None = None,
) -> AnnotationResult:
    """Make an annotation of a corpus, on a new local cluster or on the one at `scheduler`.

    Args:
        corpus: URL of a corpus or a run.
        name: of the annotation.
        kind: name of a kind, or the dotted path of a class.
        settings: of the kind, where they are not the default, as a dict or as `key=value`.
        model: the kind's setting `model`.
        tokenizer: the kind's setting `tokenizer`.
        target: URLs of examples, for a kind that needs them, or settings with such URLs.
        extension: measure a random part of the samples and predict the others.
        seed: of random parts of the corpus.
        overwrite: replace an annotation of that name.
        scheduler: `local`, or the address of a Dask scheduler.

    Raises:
        InputError: a setting is wrong, or the corpus or the target lacks what the kind needs.
        ClusterError: the cluster was lost; call again to resume.
    """
    if kind is None:
        raise InputError("--kind is missing: how are the values made? Such as --kind ngram")
    if not isinstance(target, TargetSettings):
        target = target_settings(target, kind_column=None, judge_share=0.5)
    urls = [corpus, *(target.shards if target else ()), *([model] if model else [])]
    credentials.check_urls(urls, what="annotate")
    cluster = cluster_at(scheduler or "local")
    made_kind = load_kind(kind, settings, model=model, tokenizer=tokenizer)
    _check_target(kind, made_kind, target)
    request = Request(corpus, name, kind, made_kind, seed=seed, overwrite=overwrite)
    request = dataclasses.replace(request, extension=extension)
    request.check()
    if target is not None:
        request = dataclasses.replace(request, target=target_for(made_kind, target))
    if cluster.scheduler == "local" and _computes_on_gpu(made_kind):
        cluster = cluster.model_copy(update={"workers": 1})
    with connect(cluster) as client:
        return AnnotationResult.of(make_annotation(request, client=client))


def complete(
    corpus: str,
    *,
    name: str,
    is_making: bool = False,
    scheduler: str | None = None,
    trust_run: bool = False,
) -> AnnotationResult:
    """Give an annotation values for the shards that were appended to its corpus since.

    Raises:
        InputError: its record names code of another package, and `trust_run` is not set; or the
            command also says how to make one.
        MissingError: there is no such annotation.
        ClusterError: the cluster was lost; call again to resume.
    """
    if is_making:
        raise InputError("--complete uses the settings of the annotation: leave out others")
    store = AnnotationStore(corpus)
    known = store.incomplete(name)
    if known is None:
        return AnnotationResult.of(store.read(name))
    cluster = cluster_at(scheduler or "local")
    if name == NAME and store.corpus.names:
        annotate_names(corpus)
        return AnnotationResult.of(store.read(name))
    settings = {key: known.settings[key] for key in known.settings if key != "seed"}
    if not trust_run:
        entry = {annotation_kinds.KIND: known.kind, **settings}
        trust.check_annotation(store.layout(name).record, entry)
    extension = extension_in(settings)
    own = {key: settings[key] for key in settings if key not in EXTENSION_KEYS}
    kind = annotation_kinds.load_kind(known.kind, own)
    seed = known.settings.get("seed", 0)
    request = Request(corpus, name, known.kind, kind, seed=seed, extension=extension)
    if cluster.scheduler == "local" and _computes_on_gpu(kind):
        cluster = cluster.model_copy(update={"workers": 1})
    with connect(cluster) as client:
        return AnnotationResult.of(complete_annotation(request, client=client))


def drop(corpus: str, *, name: str, is_making: bool = False) -> dict[str, Any]:
    """Delete an annotation; `attent gc` deletes its parts.

    Raises:
        MissingError: there is no such annotation.
        InputError: the command also says how to make one.
    """
    if is_making:
        raise InputError("--drop deletes an annotation: leave out what makes one")
    AnnotationStore(corpus).remove(name)
    return {"name": name, "dropped": True}


def list_annotations(corpus: str, *, judged: str | None = None) -> list[dict[str, Any]]:
    """Return name, kind, coverage, cost, enrichment and prospect of each annotation.

    Args:
        corpus: URL of a corpus or a run.
        judged: URL of a CSV file with rows that were judged by hand, from which the enrichment is
            computed instead of the target's examples.

    Raises:
        InputError: `judged` is not what `read_judged` expects.
    """
    store = AnnotationStore(corpus)
    annotations = store.records()
    if judged is not None:
        rows = read_judged(judged, corpus=store.corpus)
        annotations = [_with_judged(store, each, rows) for each in annotations]
    return [_list_entry(annotation) for annotation in annotations]


def list_examples(corpus: str, *, name: str, column: str, count: int) -> list[dict[str, Any]]:
    """Return samples of the top share, and from both sides of its cut, with their values.

    Args:
        corpus: URL of a corpus or a run.
        name: of an annotation of numbers.
        column: of the shards that is shown.
        count: number of samples of each group.

    Raises:
        InputError: there is no such annotation or column, or its values are not numbers.
    """
    store = AnnotationStore(corpus)
    annotation = store.read(name)
    if annotation.value_type not in _NUMBERS:
        raise InputError(f"the annotation {name} is {annotation.value_type}, expected numbers")
    check_columns(store.corpus, [column], what="the corpus")
    sign = _sign(annotation)
    values = sign * sample_values(store.scan(annotation), num_samples=annotation.num_rows)
    cut = top_cut(values, share=TOP_SHARE)
    rows = rows_beside_cut(store.scan(annotation), cut=cut, sign=sign, count=count)
    return [
        {
            **row,
            column: store.corpus.read(shard, rows=[row["row"]], columns=[column]).values[column][0],
        }
        for row in rows.iter_rows(named=True)
        for shard in [row["shard_id"]]
    ]


def _with_judged(
    store: AnnotationStore, annotation: Annotation, judged: pl.DataFrame
) -> Annotation:
    """Return the annotation with the enrichment by judged rows; as it is if it has no numbers."""
    if annotation.value_type not in _NUMBERS:
        return annotation
    scan, sign = store.scan(annotation), _sign(annotation)
    corpus = sample_values(scan, num_samples=annotation.num_rows)
    values = values_of_rows(scan, judged.filter(WANTED))[VALUE].fill_null(math.nan).to_numpy()
    enrichment = enrichment_of(sign * corpus, sign * values)
    enrichment |= {"resembling_share": judged[WANTED].sum() / len(judged)}
    return dataclasses.replace(annotation, enrichment=enrichment)


def _sign(annotation: Annotation) -> int:
    """Return -1 if small values are wanted."""
    return 1 if annotation.enrichment.get(LARGEST_FIRST, True) else -1


def load_kind(
    name: str,
    settings: Mapping[str, Any] | Sequence[str],
    *,
    model: str | None = None,
    tokenizer: str | None = None,
) -> AnnotationKind:
    """Return a kind with the settings, as a dict or as `key=value`.

    Raises:
        InputError: there is no such kind, or a setting is wrong.
    """
    values = dict(settings) if isinstance(settings, Mapping) else replace_keys({}, settings)
    values.pop(EXTEND_MODEL, None)  # of the extension
    options = {"model": model, "tokenizer": tokenizer}
    values |= {key: value for key, value in options.items() if value is not None}
    for key in annotation_kinds.required_settings(name):
        if key not in values:
            option = f"--{key} PATH" if key in options else f"--set {key}=…"
            raise InputError(f"the kind {name} needs the setting {key}: give {option}")
    return annotation_kinds.load_kind(name, values)


def _computes_on_gpu(kind: AnnotationKind) -> bool:
    """Whether a model is measured on the GPU of this machine, which one process uses at a time."""
    if getattr(kind, "model", None) is None:
        return False
    from trainers.scoring.scorer import best_device

    return best_device().type == "cuda"


def _check_target(name: str, kind: AnnotationKind, target: TargetSettings | None) -> None:
    if kind.needs_target and target is None:
        raise InputError(
            f"the kind {name} compares with examples of what is wanted: give --target URL…, a few"
            " hundred to a thousand of them"
        )
    if target is not None and not kind.needs_target:
        raise InputError(f"the kind {name} does not use a target: leave out --target")


def _list_entry(annotation: Annotation) -> dict[str, Any]:
    prospect = Prospect.of(annotation.enrichment)
    return {
        "name": annotation.name,
        "kind": annotation.kind,
        "value_type": annotation.value_type,
        "num_rows": annotation.num_rows,
        "coverage": annotation.coverage,
        "seconds": annotation.seconds.get("total"),
        **{name: getattr(prospect, name, None) for name in Prospect.__dataclass_fields__},
        "auc": annotation.enrichment.get("auc"),
        "fidelity": annotation.fidelity.get("spearman"),
        "digest": annotation.digest,
        "prospect": None if prospect is None else str(prospect),
    }
