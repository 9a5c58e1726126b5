"""The annotations of a run: make what its corpus lacks, check what it has."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from attent_select.errors import InputError
from attent_select.plugins import is_dotted
from catalogs import AnnotationStore
from catalogs.annotations.columns import has_units
from catalogs.annotations.record import Annotation
from pipeline.annotation.enrichment import at_top_share
from pipeline.annotation.make import Request, complete_annotation, make_annotation
from pipeline.annotation.span_work import settings_of
from pipeline.annotation.stored_values import Overlap
from pipeline.annotation.targets import target_for
from pipeline.config.annotation_kinds import KIND, kind_of, load_kind
from pipeline.config.automatic_annotations import (
    CONTAMINATION,
    DUPLICATES,
    LENGTH,
    automatic_annotations,
)
from pipeline.config.extension_settings import EXTEND_MODEL, EXTENSION_KEYS, extension_in
from pipeline.config.preflight import check_selection, shard_columns
from pipeline.config.sections import RunConfig
from pipeline.config.shard_settings import TargetSettings
from pipeline.runs.setup import Cluster
from trainers.annotation import AnnotationKind, FromAnnotations

_log = logging.getLogger("attent.pipeline.annotation.for_run")


def make_annotations(config: RunConfig, *, cluster: Cluster) -> None:
    """Make the annotations of a run that its ingested corpus lacks.

    Those of the section `annotations` in their order, then one of kind `column` for each column of
    the shards that the selection reads, then those of `automatic_annotations`.

    Raises:
        InputError: an annotation exists with other settings, or the selection cannot use one.
        ClusterError: the cluster was lost; call again to resume.
    """
    requests = [*_configured_requests(config), *_column_requests(config)]
    requests.sort(key=lambda request: isinstance(request.kind, FromAnnotations))
    existing = set(requests[0].store.names()) if requests else set()
    for request in requests:
        if request.name in existing:
            entry = config.annotations.get(request.name, {})
            _check_same(_find_annotation(request), request, config, entry)
    for request in requests:
        _make_or_complete(request, cluster=cluster, exists=request.name in existing)
        if request.kind_name == CONTAMINATION:
            _warn_of_overlap(request.store.read(request.name), request)
    for name, entry in automatic_annotations(config).items():
        _make_automatic(config, name, entry, cluster=cluster)
    check_selection(config)


def _find_annotation(request: Request) -> Annotation:
    """Return an annotation, for this version of the corpus or an earlier one."""
    return request.store.incomplete(request.name) or request.store.read(request.name)


def _make_or_complete(request: Request, *, cluster: Cluster, exists: bool) -> None:
    """Make an annotation, or complete one that lacks shards which were appended since."""
    if not exists:
        _log.info(_describe(make_annotation(request, client=cluster())))
    elif (known := request.store.incomplete(request.name)) is not None:
        request = replace(request, seed=known.settings.get("seed", request.seed))
        _log.info(_describe(complete_annotation(request, client=cluster())))


def _configured_requests(config: RunConfig) -> Iterator[Request]:
    for name, entry in config.annotations.items():
        yield _request(config, name, entry)


def _request(config: RunConfig, name: str, entry: Mapping[str, Any]) -> Request:
    kind = kind_of(entry)
    settings = _compared_with(config, kind)
    target = target_for(kind, settings) if settings is not None else None
    request = Request(config.run, name, entry[KIND], kind, target)
    return replace(request, extension=extension_in(entry))


def _compared_with(config: RunConfig, kind: AnnotationKind) -> TargetSettings | None:
    """Return the target of a kind: that of the run, and its evaluation if none of them judges."""
    if not kind.needs_target:
        return None
    if getattr(kind, "splits_target", True):
        return config.target
    sections = [section for section in (config.target, config.evaluation) if section is not None]
    shards = [url for section in sections for url in section.shards]
    return TargetSettings(tuple(shards)) if shards else None


def _make_automatic(
    config: RunConfig, name: str, entry: Mapping[str, Any], *, cluster: Cluster
) -> None:
    """Make an annotation that the configuration does not name, unless there is one.

    Raises:
        InputError: it cannot be made, and the selection reads it.
    """
    store = AnnotationStore(config.run)
    is_made = name in store.names()
    is_read = any(column.partition("_")[0] == name for column in config.selection.columns)
    if name == LENGTH and (is_made or has_units(config.run)):
        return
    try:
        request = _request(config, name, entry)
        if is_made and name == CONTAMINATION:
            _check_same(_find_annotation(request), request, config, entry)
        _make_or_complete(request, cluster=cluster, exists=is_made)
        if name == CONTAMINATION:
            _warn_of_overlap(store.read(name), request)
    except InputError as error:
        if name == DUPLICATES:
            raise InputError(f"{error}, or set selection.distinct: null") from error
        if is_read or name == LENGTH:
            raise
        _log.warning(f"the overlap of the corpus with the target is not known: {error}")


def _column_requests(config: RunConfig) -> Iterator[Request]:
    for name in shard_columns(config):
        kind = kind_of({KIND: "column", "column": name})
        yield Request(config.run, name, "column", kind)


def _check_same(
    annotation: Annotation, request: Request, config: RunConfig, entry: Mapping[str, Any]
) -> None:
    """Check that an annotation was made as the configuration says; the seed may differ.

    Raises:
        InputError: it was not; names the differences.
    """
    target = request.target.digest if request.target is not None else None
    before = {KIND: annotation.kind, "target": annotation.digests.get("target")}
    after = {KIND: request.kind_name, "target": target}
    if before[KIND] == after[KIND]:
        before |= _settings_before(annotation)
        after |= dict.fromkeys(EXTENSION_KEYS) | request.settings
        for name, digest in request.file_digests().items():
            before[f"digest of the {name}"] = annotation.digests.get(name)
            after[f"digest of the {name}"] = digest
    before, after = (json.loads(json.dumps(values)) for values in (before, after))
    differences = [
        f"{key} was {before.get(key)}, is {after[key]}"
        for key in after
        if before.get(key) != after[key]
    ]
    if differences:
        url = config.corpus.path or config.run
        command = _command(request, entry, _compared_with(config, request.kind), url)
        raise InputError(
            f"annotations.{request.name}: {url} has an annotation of that name that was made with"
            f" other settings ({'; '.join(differences)}). Use these, or another name, or replace"
            f" it for all runs: {command}"
        )


def _settings_before(annotation: Annotation) -> dict[str, Any]:
    """Return the settings that an annotation was made with, with today's defaults for new ones."""
    own = {key: value for key, value in annotation.settings.items() if key not in EXTENSION_KEYS}
    own.pop("seed", None)
    extension = {key: annotation.settings.get(key) for key in EXTENSION_KEYS}
    task = own.get("task")
    name = task.get("name") if isinstance(task, dict) else task
    if isinstance(name, str) and is_dotted(name):  # a record is data: it imports no code
        return extension | own
    try:
        return extension | settings_of(load_kind(annotation.kind, own))
    except InputError:  # a setting that the kind no longer has
        return extension | own


def _command(
    request: Request, entry: Mapping[str, Any], target: TargetSettings | None, url: str
) -> str:
    """Return the command that makes the annotation as configured."""
    words = [f"attent annotate {url} --name {request.name} --kind {request.kind_name} --overwrite"]
    words += [
        f"--{key.replace('_', '-')} {entry[key]}"
        if key in EXTENSION_KEYS and key != EXTEND_MODEL
        else f"--set {key}={json.dumps(entry[key])}"
        for key in entry
        if key != KIND
    ]
    if target is not None:
        words += [f"--target {shards}" for shards in target.shards]
        words += [f"--kind-column {target.kind_column}"] if target.kind_column else []
        words += [f"--judge-share {target.judge_share}"]
    return f"`{' '.join(words)}`"


def _warn_of_overlap(annotation: Annotation, request: Request) -> None:
    overlap = Overlap.of(request.store, annotation)
    hint = f": exclude them with `where: not {annotation.name}`" if overlap.num_samples else ""
    _log.log(logging.WARNING if hint else logging.INFO, f"{overlap}{hint}")


def _describe(annotation: Annotation) -> str:
    entry: dict[str, Any] | None = at_top_share(dict(annotation.enrichment))
    gain = f", enrichment {entry['enrichment']:.1f} at the top 20 %" if entry else ""
    seconds = annotation.seconds.get("tokenise", 0)
    tokenizing = f" ({seconds:.1f} s of one core tokenizing)" if seconds else ""
    return (
        f"annotation {annotation.name}: {annotation.coverage:.1%} of {annotation.num_rows:,}"
        f" samples have a value, {annotation.seconds['total']:.1f} s{tokenizing}{gain}"
    )
