"""`attent doctor`: check everything that a run needs, and estimate its cost, before it starts."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, TypeVar

from packaging.requirements import Requirement

from attent_select.errors import AttentError, InputError
from catalogs import AnnotationStore, storage
from catalogs.annotations.columns import AnnotationColumns, has_units
from catalogs.corpus import has_corpus
from catalogs.shard_format import Shard
from catalogs.storage.probe import probe
from pipeline.annotation.prospects import Prospect
from pipeline.annotation.stored_values import overlaps_of
from pipeline.cluster import cluster_size, connect, scheduler_address, worker_check
from pipeline.config import run_config, trust
from pipeline.config.automatic_annotations import LENGTH, automatic_annotations
from pipeline.config.sections import RunConfig
from pipeline.corpus.ingest import shard_objects
from pipeline.corpus.usability import Usability, try_samples
from pipeline.doctor.advice import advice_for
from pipeline.doctor.estimate import Estimate, estimate
from pipeline.doctor.first_shard import first_rows, inspect_first_shard
from pipeline.doctor.prices import Prices
from pipeline.doctor.round_costs import count_of, size_of
from pipeline.runs.label_classes import with_frozen_classes, with_shard_classes
from pipeline.tracking.sending import load_trackers

if TYPE_CHECKING:
    from pipeline.cluster.size import Size

Value = TypeVar("Value")

_EXTRAS = ("train", "report", "cluster", "annotate")


@dataclass(frozen=True)
class Finding:
    """Result of one check; `detail` says what was found, or what to do."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Results of all checks; there is an `estimate` only if all succeeded."""

    ok: bool
    findings: tuple[Finding, ...]
    estimate: Estimate | None


def examine(
    source: str | None,
    *,
    scheduler: str | None = None,
    overrides: Sequence[str] = (),
    trust_run: bool = False,
    prices: Sequence[str] = (),
) -> Diagnosis:
    """Check this environment and, with `source` (a configuration or a run), all that it names.

    With `trust_run`, the code and the cluster that the run.yaml of a run names are used. `prices`
    are those of requests and workers that differ from the defaults, as `NAME=VALUE`.
    """
    checks, paid = _Checks(), Prices().with_values(prices)
    checks.run("environment", _environment)
    config = None
    if source is not None:
        overrides = run_config.with_scheduler(overrides, scheduler)
        load = partial(run_config.load, source, overrides=overrides, trust_run=trust_run)
        config = checks.run("configuration", lambda: _configuration(source, load))
    if source is None or config is None:
        return Diagnosis(checks.ok, tuple(checks.findings), None)
    checks.run(f"storage of the run, {config.run}", lambda: _storage(config))
    checks.run("shards", lambda: _shards(config))
    if config.tracking:
        checks.run("tracking", lambda: (", ".join(load_trackers(config.tracking)), None))
    if config.annotations or config.corpus.path is not None or automatic_annotations(config):
        checks.run("annotations", lambda: _annotations(config))
    checks.run("advice", lambda: (". ".join(advice_for(config)), None))

    def check_cluster() -> tuple[str, "Size"]:
        if not trust_run:
            trust.check_run(source, ("cluster",), overrides=overrides)
        return _cluster(config)

    size = checks.run("cluster", check_cluster)
    with tempfile.TemporaryDirectory(prefix="attent-") as folder:
        tried = checks.run("samples", lambda: _samples(config, folder)) if checks.ok else None
        cost = None
        if tried and size:
            cost = estimate(*tried, tasks_at_a_time=size.threads, prices=paid)
    return Diagnosis(checks.ok, tuple(checks.findings), cost)


class _Checks:
    """The findings so far. A check returns what it found in words, and its value."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def run(self, name: str, check: Callable[[], tuple[str, Value]]) -> Value | None:
        """Run one check and return its value, or None if it failed."""
        try:
            detail, value = check()
        except AttentError as error:
            self.findings.append(Finding(name, ok=False, detail=str(error)))
            return None
        self.findings.append(Finding(name, ok=True, detail=detail))
        return value


def _configuration(source: str, load: Callable[[], RunConfig]) -> tuple[str, RunConfig]:
    config = with_frozen_classes(load())
    run_config.check_frozen(config)
    return f"{source} is valid", config


def _environment() -> tuple[str, None]:
    import torch

    if outdated := list(_list_outdated()):
        raise InputError(f"{'; '.join(outdated)}: install again with constraints.txt")
    names = ("python", "torch", "transformers", "polars", "dask")
    versions = worker_check.environment()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{', '.join(f'{name} {versions[name]}' for name in names)}; {device}", None


def _list_outdated() -> Iterator[str]:
    """Yield packages whose version the base or an extra of a run does not allow."""
    for requirement in map(Requirement, requires("attent-select") or ()):
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in _EXTRAS):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed}, expected {requirement.specifier}"


def _storage(config: RunConfig) -> tuple[str, None]:
    result = probe(config.run)
    ranges = {
        "native": "ranged reads: standard",
        "fsspec": "ranged reads: through fsspec, as this server answers them differently",
    }
    conditional = {
        True: "supported",
        False: "ignored by the server, not required",
        None: "not supported, not required",
    }
    detail = (
        f"write, read, list and delete work; {ranges[result.ranges]}; conditional writes: "
        f"{conditional[result.conditional_put]}; {1000 * result.request_seconds:.1f} ms per "
        f"request, reads {result.read_bytes_per_second / 1e6:,.0f} MB/s"
    )
    return detail, None


def _shards(config: RunConfig) -> tuple[str, None]:
    shards = shard_objects(config.corpus)
    first = shards[0]
    storage.read_ranges(first.url, [(0, min(8, first.num_bytes))], etag=first.etag)
    num_bytes = sum(shard.num_bytes for shard in shards)
    return f"{count_of(len(shards), 'shard')}, {size_of(num_bytes)}, the first is readable", None


def _annotations(config: RunConfig) -> tuple[str, None]:
    """Say what selecting by each annotation promises, where examples of a target judged it.

    And which samples overlap with held-out examples, where an annotation says so.
    """
    columns = {*config.annotations, *config.selection.columns}
    missing = {*config.annotations, *automatic_annotations(config)}
    lines = []
    if has_corpus(url := config.corpus.path or config.run):
        missing -= {LENGTH} if has_units(url) and LENGTH not in config.annotations else set()
        missing.difference_update(AnnotationStore(url).names())
        for annotation, _ in AnnotationColumns.of(url, columns).annotations:
            prospect = Prospect.of(annotation.enrichment)
            if prospect is not None or annotation.name in config.annotations:
                lines.append(f"{annotation.name}: {prospect or 'not judged by a target'}")
        lines += map(str, overlaps_of(AnnotationStore(url)))
    if missing:
        lines.append(f"the run will make {', '.join(sorted(missing))}")
        if config.target is not None:
            lines.append("once they are made, this command says what selecting by them promises")
    return "; ".join(lines) or "the selection uses none", None


def _samples(config: RunConfig, folder: str) -> tuple[str, tuple[RunConfig, Shard, Usability]]:
    """Prepare the first samples of the first shard; `folder` keeps the list of its members.

    Returns the configuration with the classes of this shard.
    """
    shard, _ = inspect_first_shard(config.corpus, folder)
    config = with_shard_classes(config, shard)
    tried = try_samples(config.task.task, [(shard, first_rows(shard))])
    allowed = config.scoring.max_failed_share
    detail = (
        f"{tried.failed_share:.1%} cannot be used (scoring.max_failed_share allows {allowed:.1%})"
        + (f", {tried}" if tried.unusable else f": all of the first {tried.num_samples:,} can")
    )
    if tried.failed_share > allowed or not tried.items:
        raise InputError(f"{detail}. Fix the corpus or the task settings")
    return detail, (config, shard, tried)


def _cluster(config: RunConfig) -> tuple[str, "Size"]:
    shard = shard_objects(config.corpus)[0]
    with connect(config.cluster) as client:
        needs_gpu = "GPU" in config.cluster.resources
        worker_check.check_workers(client, objects={shard.url: shard.etag}, needs_gpu=needs_gpu)
        size = cluster_size(client, resources=config.cluster.resources)
        address = scheduler_address(client)
    adaptive = config.cluster.adaptive
    growth = f", growing to {adaptive.maximum}" if adaptive is not None else ""
    local = re.match(r"(inproc|tcp|tls)://127\.0\.0\.1", address)
    detail = (
        f"{size.workers} workers{growth}, {size.threads} tasks at a time, "
        f"{'on this machine' if local else f'at {address}'}; all have the same versions and can "
        f"read {shard.url}"
    )
    return detail, size
