"""`attent doctor`: what would go wrong, and what a run will cost, before anything is spent.

One check after the other, each ending in a line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from attent_select.errors import AttentError, InputError
from catalogs import storage
from catalogs.storage.probe import probe
from pipeline.cluster import connect, size, worker_check
from pipeline.config import run_config
from pipeline.config.sections import RunConfig
from pipeline.corpus.ingest import shard_objects
from pipeline.doctor.estimate import Estimate, estimate

_EXTRAS = ("train", "report", "cluster")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `detail` says what was found, or what to do."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found; `estimate` only where all is well."""

    ok: bool
    findings: tuple[Finding, ...]
    estimate: Estimate | None


def examine(
    source: str | None, *, scheduler: str | None = None, overrides: Sequence[str] = ()
) -> Diagnosis:
    """Checks this environment, and with `source` (a configuration or a run) all that it names."""
    findings = [_finding("environment", _environment)]
    config = None
    if source is not None:
        if scheduler is not None:
            overrides = [*overrides, f"cluster.scheduler={scheduler}"]
        loaded: list[RunConfig] = []

        def load() -> str:
            loaded.append(run_config.load(source, overrides=overrides))
            run_config.check_frozen(loaded[0])
            return f"{source} is sound"

        findings.append(_finding("configuration", load))
        config = loaded[0] if findings[-1].ok else None
    if config is None:
        return Diagnosis(all(one.ok for one in findings), tuple(findings), None)
    workers: list[int] = []
    findings.append(_finding(f"storage of the run, {config.run}", lambda: _storage(config)))
    findings.append(_finding("shards", lambda: _shards(config)))
    findings.append(_finding("cluster", lambda: _cluster(config, workers)))
    ok = all(one.ok for one in findings)
    return Diagnosis(ok, tuple(findings), estimate(config, places=workers[0]) if ok else None)


def _finding(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, detail=look())
    except AttentError as error:
        return Finding(name, ok=False, detail=str(error))


def _environment() -> str:
    import torch

    if outdated := list(_outdated()):
        raise InputError(f"{'; '.join(outdated)}: install again with constraints.txt")
    names = ("python", "torch", "transformers", "polars", "dask")
    found = worker_check.environment()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{', '.join(f'{name} {found[name]}' for name in names)}; {device}"


def _outdated() -> Iterator[str]:
    """What is installed in a version that the base or an extra of a run does not allow."""
    for requirement in map(Requirement, requires("attent-select") or ()):
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in _EXTRAS):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue  # an extra that is not used here
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed}, expected {requirement.specifier}"


def _storage(config: RunConfig) -> str:
    found = probe(config.run)
    ranges = {
        "native": "ranged reads as they should be",
        "fsspec": "ranged reads through fsspec: this server answers them in its own way",
    }
    conditional = {True: "honoured", False: "ignored (nothing depends on them)", None: "no matter"}
    return (
        f"written, read, listed and deleted; {ranges[found.ranges]}; conditional writes "
        f"{conditional[found.conditional_put]}; {1000 * found.request_seconds:.1f} ms a request, "
        f"{found.read_bytes_per_second / 1e6:,.0f} MB/s read"
    )


def _shards(config: RunConfig) -> str:
    found = shard_objects(config.corpus)
    storage.read_ranges(found[0].url, [(0, min(8, found[0].num_bytes))], etag=found[0].etag)
    num_bytes = sum(one.num_bytes for one in found)
    return f"{len(found)} shards, {num_bytes / 1e9:,.3f} GB, the first can be read"


def _cluster(config: RunConfig, places: list[int]) -> str:
    shard = shard_objects(config.corpus)[0]
    with connect(config.cluster) as client:
        needs_gpu = "GPU" in config.cluster.resources
        worker_check.check_workers(client, objects={shard.url: shard.etag}, needs_gpu=needs_gpu)
        found = size(client, resources=config.cluster.resources)
        address = client.scheduler.address
    places.append(found.threads)
    asked = config.cluster.adaptive
    grows = f", growing to {asked.maximum}" if asked is not None else ""
    local = re.match(r"(inproc|tcp|tls)://127\.0\.0\.1", address)
    return (
        f"{found.workers} workers{grows}, {found.threads} tasks at a time, "
        f"{'on this machine' if local else f'at {address}'}; all have the same versions and read "
        f"{shard.url}"
    )
