"""Annotations from the command line: make one, delete one, list them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attent_select.errors import InputError
from catalogs import AnnotationStore
from catalogs.annotations.record import Annotation
from pipeline.annotation.enrichment import at_top_share
from pipeline.annotation.make import Request, make_annotation
from pipeline.annotation.targets import Target, read_target
from pipeline.cluster import cluster_at, connect
from pipeline.config import annotation_kinds, credentials
from pipeline.config.target_settings import TargetSettings
from pipeline.config.yaml_values import replace_keys
from trainers.annotation import FIELDS, AnnotationKind


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
    settings: Sequence[str] = (),
    model: str | None = None,
    tokenizer: str | None = None,
    target: TargetSettings | None = None,
    seed: int = 0,
    overwrite: bool = False,
    scheduler: str | None = None,
) -> AnnotationResult:
    """Make an annotation of a corpus, on a new local cluster or on the one at `scheduler`.

    Args:
        corpus: URL of a corpus or a run.
        name: of the annotation.
        kind: name of a kind, or the dotted path of a class.
        settings: `key=value` for each setting of the kind that is not the default.
        model: the kind's setting `model`.
        tokenizer: the kind's setting `tokenizer`.
        target: examples, for a kind that needs them.
        seed: of random parts of the corpus.
        overwrite: replace an annotation of that name.
        scheduler: `local`, or the address of a Dask scheduler.

    Raises:
        InputError: a setting is wrong, or the corpus or the target lacks what the kind needs.
        ClusterError: the cluster was lost; call again to resume.
    """
    if kind is None:
        raise InputError("--kind is missing: how are the values made? Such as --kind ngram")
    urls = [corpus, *(target.shards if target else ()), *([model] if model else [])]
    credentials.check_urls(urls, what="annotate")
    cluster = cluster_at(scheduler or "local")
    made_kind = load_kind(kind, settings, model=model, tokenizer=tokenizer)
    _check_target(kind, made_kind, target)
    request = Request(corpus, name, kind, made_kind, seed=seed, overwrite=overwrite)
    request.check()
    examples = _read_target(target, made_kind)
    request = dataclasses.replace(request, target=examples)
    if cluster.scheduler == "local" and _computes_on_gpu(made_kind):
        cluster = cluster.model_copy(update={"workers": 1})
    with connect(cluster) as client:
        return AnnotationResult.of(make_annotation(request, client=client))


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


def list_annotations(corpus: str) -> list[dict[str, Any]]:
    """Return name, kind, coverage, cost and enrichment at the top share of each annotation."""
    store = AnnotationStore(corpus)
    return [_list_entry(store.read(name)) for name in store.names()]


def load_kind(
    name: str, settings: Sequence[str], *, model: str | None = None, tokenizer: str | None = None
) -> AnnotationKind:
    """Return a kind with the settings `key=value`.

    Raises:
        InputError: there is no such kind, or a setting is wrong.
    """
    values = replace_keys({}, settings)
    values = {FIELDS.get(key, key): values[key] for key in values}
    options = {"model": model, "tokenizer": tokenizer}
    values |= {key: value for key, value in options.items() if value is not None}
    return annotation_kinds.load_kind(name, values)


def _computes_on_gpu(kind: AnnotationKind) -> bool:
    """Whether a model is measured on the GPU of this machine, which one process uses at a time."""
    if not hasattr(kind, "model"):
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


def _read_target(target: TargetSettings | None, kind: AnnotationKind) -> Target | None:
    return None if target is None else read_target(target, columns=kind.columns)


def _list_entry(annotation: Annotation) -> dict[str, Any]:
    entry = at_top_share(dict(annotation.enrichment)) or {}
    return {
        "name": annotation.name,
        "kind": annotation.kind,
        "value_type": annotation.value_type,
        "num_rows": annotation.num_rows,
        "coverage": annotation.coverage,
        "seconds": annotation.seconds.get("total"),
        "share": entry.get("share"),
        "enrichment": entry.get("enrichment"),
        "low": entry.get("low"),
        "high": entry.get("high"),
        "ceiling": entry.get("ceiling"),
        "auc": annotation.enrichment.get("auc"),
        "digest": annotation.digest,
    }
