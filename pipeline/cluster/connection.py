"""Starts a cluster, or connects to one, and makes sure that it can do the work.

Here: `local`, an address, any cluster class; adaptive scaling, TLS, resources.
"""

import contextlib
import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, LocalCluster, Security

from attent_select.errors import ClusterError, InputError
from pipeline.cluster.window import GO_ON
from pipeline.config.sections import ClusterSettings
from pipeline.config.validation import check

# Of clusters that are started here.
_OF_OUR_OWN = {
    # A worker that dies is the driver's business: it looks for what killed it.
    "distributed.scheduler.allowed-failures": 0,
    # On a busy machine a worker takes its time to start again; its nanny would give it up.
    "distributed.comm.timeouts.connect": "120s",
}


def cluster_at(scheduler: str) -> ClusterSettings:
    """The cluster that a command's `--scheduler` names. Raises `InputError` if it names none."""
    return check(ClusterSettings, {"scheduler": scheduler}, source="the command line")


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """A client of the cluster that `settings` describe, with at least one worker.

    A cluster that is started here is ended on leaving.

    Raises:
        InputError: nothing answers at the scheduler's address, the cluster class cannot be used, a
            certificate is missing, or a worker lacks the resources that a task needs.
        ClusterError: the scheduler has no worker within `worker_timeout_seconds`.
    """
    _quiet_logs()
    with contextlib.ExitStack() as stack:
        if settings.is_address:
            client = stack.enter_context(_remote_client(settings))
        else:
            stack.enter_context(dask.config.set(_OF_OUR_OWN))
            cluster = stack.enter_context(_started(settings))
            client = stack.enter_context(Client(cluster))
        try:
            client.wait_for_workers(1, timeout=settings.worker_timeout_seconds)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {client.scheduler.address} had no worker for "
                f"{settings.worker_timeout_seconds} s: start workers (`dask worker "
                f"{client.scheduler.address}`), or raise cluster.worker_timeout_seconds where they "
                f"wait in a queue; {GO_ON}"
            ) from error
        _check_resources(client, needed=settings.resources)
        yield client


@contextmanager
def connect_when_needed(settings: ClusterSettings) -> Iterator[Callable[[], Client]]:
    """Like `connect`, but yields a function that connects when it is first called."""
    with contextlib.ExitStack() as stack:
        connected: list[Client] = []

        def client() -> Client:
            if not connected:
                connected.append(stack.enter_context(connect(settings)))
            return connected[0]

        yield client


@contextmanager
def _started(settings: ClusterSettings) -> Iterator[Any]:
    """A cluster of this process, of the size that `settings` ask for."""
    cluster = _local(settings) if settings.scheduler == "local" else _of_class(settings)
    with cluster:
        if settings.adaptive is not None:
            cluster.adapt(minimum=settings.adaptive.minimum, maximum=settings.adaptive.maximum)
        elif settings.scheduler != "local" and settings.workers is not None:
            cluster.scale(settings.workers)
        yield cluster


def _local(settings: ClusterSettings) -> LocalCluster:
    num_workers = settings.workers or os.cpu_count() or 1
    return LocalCluster(
        n_workers=settings.adaptive.minimum if settings.adaptive else num_workers,
        threads_per_worker=settings.threads_per_worker,
        processes=True,
        host="127.0.0.1" if settings.security is None else "tls://127.0.0.1",
        # Without a dashboard Dask still serves metrics: at any free port.
        dashboard_address=settings.dashboard or "127.0.0.1:0",
        scheduler_kwargs={"dashboard": settings.dashboard is not None},
        memory_limit=settings.memory_limit,
        resources=settings.resources or None,
        security=_security(settings),
        silence_logs=logging.CRITICAL,
    )


def _of_class(settings: ClusterSettings) -> Any:
    path, arguments = settings.scheduler, dict(settings.arguments)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"cluster.scheduler: {path} cannot be loaded ({error}): install the package that has "
            "it where the command runs, or correct the name"
        ) from error
    if (security := _security(settings)) is not None:
        arguments["security"] = security
    try:
        return found(**arguments)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason = error.__cause__ or error
        raise InputError(
            f"cluster.arguments: {path} cannot be started with them: "
            f"{' '.join(str(reason).split())}"
        ) from error


@contextmanager
def _remote_client(settings: ClusterSettings) -> Iterator[Client]:
    try:
        client = Client(
            settings.scheduler,
            timeout=settings.connect_timeout_seconds,
            security=_security(settings),
        )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"cluster.scheduler: nothing answers at {settings.scheduler} within "
            f"{settings.connect_timeout_seconds} s: start `dask scheduler` there, or use `local`"
            + ("; a tls:// scheduler also needs cluster.security" if "tls" in str(error) else "")
        ) from error
    with client:
        yield client


def _security(settings: ClusterSettings) -> Security | None:
    files = settings.security
    if files is None:
        return None
    for name in ("ca_file", "cert_file", "key_file"):
        if not os.path.isfile(path := getattr(files, name)):  # noqa: PTH113
            raise InputError(f"cluster.security.{name}: there is no file {path}")
    roles = {
        f"tls_{role}_{what}": path
        for role in ("client", "scheduler", "worker")
        for what, path in (("cert", files.cert_file), ("key", files.key_file))
    }
    return Security(require_encryption=True, tls_ca_file=files.ca_file, **roles)


def _check_resources(client: Client, *, needed: Mapping[str, float]) -> None:
    """A task that no worker can satisfy would wait without a word."""
    workers: Any = client.scheduler_info(n_workers=-1)["workers"]
    for address, worker in workers.items():
        offered = worker["resources"]
        if lacking := [name for name in needed if offered.get(name, 0) < needed[name]]:
            name = lacking[0]
            raise InputError(
                f"cluster.resources: a scoring task needs {name}={needed[name]:g}, the worker at "
                f"{address} offers {offered or 'no resources'}: start every worker with `dask "
                f'worker … --resources "{name}={needed[name]:g}"`, or leave cluster.resources out'
            )


def _quiet_logs() -> None:
    """Dask tells of every lost connection on stderr; we say what matters ourselves."""
    if "DASK_LOGGING__DISTRIBUTED" in os.environ:
        return
    dask.config.set({"logging.distributed": "critical"})
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
