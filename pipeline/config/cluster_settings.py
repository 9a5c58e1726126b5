"""Settings of the Dask cluster, checked without importing Dask."""

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from attent_select.errors import InputError
from pipeline.config.validation import Section

_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://.+")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
# What `dask.utils.parse_bytes` reads: a number and a unit such as GB, GiB, G or none.
_AMOUNT = re.compile(r"(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?([kmgtp]i?)?b?|[kmgtp]i?b?|b", re.IGNORECASE)


class Adaptive(Section):
    """Limits between which a cluster that is started here grows and shrinks.

    Attributes:
        minimum: fewest workers.
        maximum: most workers.
    """

    minimum: int = Field(default=1, ge=1)
    maximum: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> "Adaptive":
        if self.maximum < self.minimum:
            raise InputError(f"maximum is {self.maximum}: expected at least {self.minimum}")
        return self


class SecurityFiles(Section):
    """PEM files for TLS: their paths, never their content.

    Attributes:
        ca_file: certificate of the authority.
        cert_file: certificate of this process.
        key_file: its private key.
    """

    ca_file: str
    cert_file: str
    key_file: str


class ClusterSettings(Section):
    """The Dask cluster for scoring and ingesting.

    Attributes:
        scheduler: `local` (processes on this machine), the address of a Dask scheduler, or the
            dotted path of a cluster class (`dask_jobqueue.SLURMCluster`).
        arguments: arguments of the cluster class.
        workers: processes of a local cluster (default: one per core), or workers of a cluster
            class (default: by its arguments).
        adaptive: replaces `workers`; the cluster grows and shrinks with the work.
        security: files for TLS.
        resources: resources of its worker that a scoring task takes, such as `{GPU: 1}`.
        threads_per_worker: concurrent tasks in each process of a local cluster.
        memory_limit: per local worker, in Dask's notation (`auto`, `4GB`).
        dashboard: address of the Dask dashboard of a local cluster, such as `:8787`.
        window: tasks in flight per thread of the cluster.
        patience_seconds: the run ends if the cluster has no worker for this long.
        connect_timeout_seconds: timeout for the scheduler to answer.
        worker_timeout_seconds: timeout for the first worker to appear.
    """

    scheduler: str = "local"
    arguments: dict[str, Any] = Field(default_factory=dict)
    workers: int | None = Field(default=None, ge=1)
    adaptive: Adaptive | None = None
    security: SecurityFiles | None = None
    resources: dict[str, float] = Field(default_factory=dict)
    threads_per_worker: int = Field(default=1, ge=1)
    memory_limit: str = "auto"
    dashboard: str | None = None
    window: int = Field(default=2, ge=1)
    patience_seconds: float = Field(default=60.0, gt=0)
    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    worker_timeout_seconds: float = Field(default=120.0, gt=0)

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, scheduler: str) -> str:
        if scheduler != "local" and not (_ADDRESS.match(scheduler) or _CLASS.fullmatch(scheduler)):
            raise InputError(
                "expected `local`, an address such as tcp://10.0.0.1:8786, or the dotted path of a "
                "cluster class such as dask_jobqueue.SLURMCluster"
            )
        return scheduler

    @field_validator("resources")
    @classmethod
    def _positive(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if not amount > 0:
                raise InputError(f"{name} is {amount}: expected more than 0")
        return resources

    @model_validator(mode="after")
    def _fits_scheduler(self) -> "ClusterSettings":
        if self.arguments and (self.scheduler == "local" or self.is_address):
            raise InputError("arguments need a cluster class in scheduler")
        if self.adaptive is not None and self.is_address:
            raise InputError("adaptive needs a cluster that is started here, not an address")
        return self

    @property
    def is_address(self) -> bool:
        return _ADDRESS.match(self.scheduler) is not None


def check_memory_limit(limit: str) -> None:
    """Check a memory limit: `auto`, a share of the machine's memory, or a number of bytes.

    Raises:
        InputError: Dask cannot read `limit`, or it is negative.
    """
    if limit.strip().startswith("-"):
        raise InputError(f"memory limit must not be negative, got {limit}")
    if limit != "auto" and not _AMOUNT.fullmatch(limit.replace(" ", "")):
        raise InputError(
            f"invalid memory limit {limit!r}: expected `auto`, 0 (no limit) or e.g. 4GiB"
        )
