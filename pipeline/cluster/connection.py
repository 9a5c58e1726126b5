"""Connection to a cluster that runs already or is started here, with a check of its workers."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client

from attent_select.errors import ClusterError, InputError
from pipeline.cluster.lost_cluster import RESUME
from pipeline.cluster.new_cluster import security_of, start_cluster
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.config.validation import check


def cluster_at(scheduler: str) -> ClusterSettings:
    """Return the settings of the cluster that the option `--scheduler` names.

    Raises:
        InputError: it is neither `local` nor an address nor a cluster class.
    """
    return check(ClusterSettings, {"scheduler": scheduler}, source="the command line")


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """Connect to the cluster that `settings` describe, with at least one worker.

    A cluster that is started here is closed on leaving.

    Raises:
        InputError: no scheduler answers at the address, the cluster class cannot be used, a
            certificate is missing, or a worker lacks the resources that a task needs.
        ClusterError: the scheduler has no worker within `worker_timeout_seconds`.
    """
    _quiet_logs()
    with contextlib.ExitStack() as stack:
        if settings.is_address:
            client = stack.enter_context(_remote_client(settings))
        else:
            cluster = stack.enter_context(start_cluster(settings))
            client = stack.enter_context(Client(cluster))  # type: ignore[no-untyped-call]
        try:
            client.wait_for_workers(1, timeout=settings.worker_timeout_seconds)
        except TimeoutError as error:
            address = scheduler_address(client)
            raise ClusterError(
                f"the scheduler at {address} had no worker for {settings.worker_timeout_seconds} "
                f"s: start workers (`dask worker {address}`), or raise "
                f"cluster.worker_timeout_seconds if they wait in a queue; {RESUME}"
            ) from error
        _check_resources(client, needed=settings.resources)
        yield client


@contextmanager
def connect_when_needed(
    settings: ClusterSettings, *, check: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], Client]]:
    """Yield a function that connects like `connect` when it is first called, after `check`."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def client() -> Client:
            check()
            return stack.enter_context(connect(settings))

        yield client


@contextmanager
def _remote_client(settings: ClusterSettings) -> Iterator[Client]:
    security = security_of(settings)  # a missing file is not a missing scheduler
    try:
        client = Client(  # type: ignore[no-untyped-call]
            settings.scheduler,
            timeout=settings.connect_timeout_seconds,
            security=security,
        )
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"cluster.scheduler: no scheduler answered at {settings.scheduler} within "
            f"{settings.connect_timeout_seconds} s: start `dask scheduler` there, or use `local`"
            + ("; a tls:// scheduler also needs cluster.security" if "tls" in str(error) else "")
        ) from error
    with client:
        yield client


def scheduler_address(client: Client) -> str:
    """Return the address of the scheduler that `client` is connected to."""
    scheduler: Any = client.scheduler
    return str(scheduler.address)


def _check_resources(client: Client, *, needed: Mapping[str, float]) -> None:
    """Refuse resources that no worker offers: Dask would wait silently."""
    workers: Any = client.scheduler_info(n_workers=-1)["workers"]
    for address, worker in workers.items():
        offered = worker["resources"]
        if missing := [name for name in needed if offered.get(name, 0) < needed[name]]:
            name = missing[0]
            raise InputError(
                f"cluster.resources: a scoring task needs {name}={needed[name]:g}, the worker at "
                f"{address} offers {offered or 'no resources'}: start every worker with `dask "
                f'worker … --resources "{name}={needed[name]:g}"`, or remove cluster.resources'
            )


def _quiet_logs() -> None:
    """Silence Dask, which logs every lost connection; errors of ours say what matters."""
    if "DASK_LOGGING__DISTRIBUTED" in os.environ:
        return
    dask.config.set({"logging.distributed": "critical"})
    for name in ("distributed", "distributed.client", "distributed.core", "distributed.nanny"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
