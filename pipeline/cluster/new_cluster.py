"""Clusters that this process starts: local ones, and those of any Dask cluster class."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import LocalCluster, Security
from distributed.deploy.cluster import Cluster

from attent_select.errors import InputError
from attent_select.plugins import load_class
from pipeline.cluster import worker_processes
from pipeline.cluster.main_guard import check_main_guard
from pipeline.config.cluster_settings import ClusterSettings

_DASK_CONFIG = {
    # The driver handles the death of a worker: it searches for the cause.
    "distributed.scheduler.allowed-failures": 0,
    # On a busy machine a worker restarts slowly; its nanny would give up.
    "distributed.comm.timeouts.connect": "120s",
    # The history of its profiler grows for hours: a third of a megabyte per round of a small run.
    "distributed.worker.profile.enabled": False,
    # By default 1,000 messages of each connection, with what tasks were given, and as many
    # transitions are kept, and two measurements a second of the monitor for an hour.
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.system-monitor.log-length": 120,
}


@contextmanager
def start_cluster(settings: ClusterSettings) -> Iterator[Any]:
    """Start a cluster of the size in `settings`, and close it on leaving.

    Raises:
        InputError: the cluster class cannot be used, or a certificate is missing.
    """
    with dask.config.set({**_DASK_CONFIG, **worker_processes.dask_config()}):
        yield from _start(settings)


def _start(settings: ClusterSettings) -> Iterator[Any]:
    cluster = _local(settings) if settings.scheduler == "local" else _of_class(settings)
    with cluster:
        if settings.adaptive is not None:
            cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum)
        elif settings.scheduler != "local" and settings.workers is not None:
            cluster.scale(settings.workers)
        yield cluster


def _local(settings: ClusterSettings) -> LocalCluster:
    check_main_guard()
    num_workers = settings.workers or os.cpu_count() or 1
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=settings.adaptive.minimum if settings.adaptive else num_workers,
        threads_per_worker=settings.threads_per_worker,
        processes=True,
        host="127.0.0.1" if settings.security is None else "tls://127.0.0.1",
        # Without a dashboard Dask still serves metrics, on any free port.
        dashboard_address=_on_loopback(settings.dashboard or ":0"),
        scheduler_kwargs={"dashboard": settings.dashboard is not None},
        memory_limit=settings.memory_limit,
        resources=settings.resources or None,
        security=security_of(settings),
        silence_logs=logging.CRITICAL,
        env=worker_processes.environment(),
    )


def _on_loopback(address: str) -> str:
    """Return a dashboard's address: `:8787` and `8787` without a host are for this machine only."""
    host, _, port = address.rpartition(":")
    return address if host else f"127.0.0.1:{port}"


def _of_class(settings: ClusterSettings) -> Any:
    path, arguments = settings.scheduler, dict(settings.arguments)
    cluster_class = _load_cluster_class(path)
    if (security := security_of(settings)) is not None:
        arguments["security"] = security
    try:
        return cluster_class(**arguments)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason = error.__cause__ or error
        raise InputError(
            f"cluster.arguments: cannot start {path} with these arguments: "
            f"{' '.join(str(reason).split())}"
        ) from error


def _load_cluster_class(path: str) -> type[Cluster]:
    """Return a cluster class; any other class or function is never called."""
    try:
        loaded = load_class(path)
    except InputError as error:
        raise InputError(
            f"cluster.scheduler: {error}: install its package where the command runs, or correct "
            "the name"
        ) from error
    if not issubclass(loaded, Cluster):
        raise InputError(
            f"cluster.scheduler: {path} is not a cluster class of Dask: expected a subclass of "
            "distributed.deploy.Cluster, such as dask_jobqueue.SLURMCluster"
        )
    return loaded


def security_of(settings: ClusterSettings) -> Security | None:
    """Return the TLS files of the configuration, or None without `cluster.security`.

    Raises:
        InputError: a file is missing.
    """
    files = settings.security
    if files is None:
        return None
    for name in ("ca_file", "cert_file", "key_file"):
        if not os.path.isfile(path := getattr(files, name)):  # noqa: PTH113
            raise InputError(f"cluster.security.{name}: {path} was not found")
    roles = {
        f"tls_{role}_{what}": path
        for role in ("client", "scheduler", "worker")
        for what, path in (("cert", files.cert_file), ("key", files.key_file))
    }
    return Security(  # type: ignore[no-untyped-call]
        require_encryption=True, tls_ca_file=files.ca_file, **roles
    )
