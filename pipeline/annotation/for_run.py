"""The annotations of a run: make what its corpus lacks, check what it has."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from attent_select.errors import InputError
from catalogs.annotations.record import Annotation
from catalogs.annotations.store import VALUE
from pipeline.annotation.enrichment import at_top_share
from pipeline.annotation.make import Request, make_annotation
from pipeline.annotation.targets import read_target
from pipeline.config.annotation_kinds import KIND, kind_of
from pipeline.config.extension_settings import EXTENSION_KEYS, extension_in
from pipeline.config.preflight import check_selection, shard_columns
from pipeline.config.sections import RunConfig
from pipeline.runs.setup import Cluster

_log = logging.getLogger("attent.pipeline.annotation.for_run")


def make_annotations(config: RunConfig, *, cluster: Cluster) -> None:
    """Make the annotations of a run that its ingested corpus lacks.

    Those of the section `annotations` in their order, then one of kind `column` for each column of
    the shards that the selection reads.

    Raises:
        InputError: an annotation exists with other settings, or the selection cannot use one.
        ClusterError: the cluster was lost; call again to resume.
    """
    requests = [*_configured_requests(config), *_column_requests(config)]
    existing = set(requests[0].store.names()) if requests else set()
    for request in requests:
        if request.name in existing:
            _check_same(request.store.read(request.name), request, config)
    for request in requests:
        if request.name not in existing:
            _log.info(_describe(make_annotation(request, client=cluster())))
        if request.kind_name == "contamination":
            _warn_of_contamination(request)
    check_selection(config)


def _configured_requests(config: RunConfig) -> Iterator[Request]:
    for name, entry in config.annotations.items():
        kind = kind_of(entry)
        target = None
        if kind.needs_target and config.target is not None:
            target = read_target(config.target, columns=kind.columns)
        request = Request(config.run, name, entry[KIND], kind, target)
        yield replace(request, extension=extension_in(entry))


def _column_requests(config: RunConfig) -> Iterator[Request]:
    for name in shard_columns(config):
        kind = kind_of({KIND: "column", "column": name})
        yield Request(config.run, name, "column", kind)


def _check_same(annotation: Annotation, request: Request, config: RunConfig) -> None:
    """Check that an annotation was made as the configuration says; the seed may differ.

    Raises:
        InputError: it was not; names the differences.
    """
    target = request.target.digest if request.target is not None else None
    before = {KIND: annotation.kind, "target": annotation.digests.get("target")}
    after = {KIND: request.kind_name, "target": target}
    if before[KIND] == after[KIND]:
        before |= annotation.settings
        extension = {"sample": None, "extend": None}
        after |= extension | json.loads(json.dumps(request.settings))
    differences = [
        f"{key} was {before.get(key)}, is {after[key]}"
        for key in after
        if before.get(key) != after[key]
    ]
    if differences:
        url = config.corpus.path or config.run
        raise InputError(
            f"annotations.{request.name}: {url} has an annotation of that name that was made with"
            f" other settings ({'; '.join(differences)}). Use these, or another name, or replace"
            f" it for all runs: {_command(request, config, url)}"
        )


def _command(request: Request, config: RunConfig, url: str) -> str:
    """Return the command that makes the annotation as configured."""
    words = [f"attent annotate {url} --name {request.name} --kind {request.kind_name} --overwrite"]
    entry = config.annotations[request.name]
    words += [
        f"--{key.replace('_', '-')} {entry[key]}"
        if key in EXTENSION_KEYS
        else f"--set {key}={json.dumps(entry[key])}"
        for key in entry
        if key != KIND
    ]
    if request.target is not None and (target := config.target) is not None:
        words += [f"--target {shards}" for shards in target.shards]
        words += [f"--kind-column {target.kind_column}"] if target.kind_column else []
        words += [f"--judge-share {target.judge_share}"]
    return f"`{' '.join(words)}`"


def _warn_of_contamination(request: Request) -> None:
    rows = request.store.scan(request.name).frame()
    count = rows.select(pl.col(VALUE).sum()).collect(engine="streaming").item()
    if count:
        _log.warning(
            f"{count:,} of {request.store.corpus.num_samples:,} samples of the corpus are examples"
            " of the target, which judge what they train: exclude them with"
            f" `where: not {request.name}`"
        )


def _describe(annotation: Annotation) -> str:
    entry: dict[str, Any] | None = at_top_share(dict(annotation.enrichment))
    gain = f", enrichment {entry['enrichment']:.1f} at the top 20 %" if entry else ""
    return (
        f"annotation {annotation.name}: {annotation.coverage:.1%} of {annotation.num_rows:,}"
        f" samples have a value, {annotation.seconds['total']:.1f} s{gain}"
    )
