"""Settings of the stream: the order of samples, the shuffle, reading and its threads."""

import os
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from attent_select.errors import InputError
from trainers.settings.bounds import BatchSize, NonNegative, Positive, check_fields

# Threads hide the latency of requests to an object store; local files have little.
_LOCAL_THREADS = 4
_REMOTE_THREADS = 16
_PREPARE_THREADS = 2


@dataclass(frozen=True)
class OrderSettings:
    """What the global batches depend on, beside the index and the shuffle of `StreamingSettings`.

    Attributes:
        seed: seed of the order and of augmentation.
        batch_size: samples per optimizer step, over all ranks.
        epochs: passes over the index, each in another order.
        tail: `pad` or `drop` the last, incomplete global batch of an epoch.
    """

    seed: int
    batch_size: BatchSize
    epochs: Positive = 1
    tail: Literal["pad", "drop"] = "pad"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class StreamingSettings:
    """How training reads what was selected. `shuffle` and `block_bytes` are part of the order; the
    others change only speed and memory.

    Without `read_threads` and `prepare_threads`, a process with a single CPU reads local files and
    prepares in the training thread, because threads would compete with training. A local file that
    never answers is then waited for without a limit.

    Attributes:
        shuffle: `block` shuffles what is read together; `full` shuffles all selected rows.
        block_bytes: bytes (of the samples, and Python's for each) that are shuffled together, or
            with `full` read together, over all ranks.
        read_ahead_bytes: memory of a rank for samples that were read, and again for prepared ones,
            beside the shuffle block that is being handed out.
        read_threads: threads that read; default: 4 for local files, 16 for object stores.
        prepare_threads: threads that decode and collate; default: 2.
        timeout_seconds: how long to wait for a batch.
        latency_ms: latency of a request; default: as is usual for the storage.
        connection_mb_per_second: throughput of one connection; default: as is usual for the
            storage.
        cache: a folder on the node's own disk for what was read from an object store.
        cache_bytes: upper limit for the size of that folder.
        materialise: whether scattered rows are first written as compact shards: `auto` where the
            cost model says that it pays over the round's epochs.
    """

    # Unknown keys are errors also where these settings stand alone (`attent stream --set`).
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    shuffle: Literal["block", "full"] = "block"
    block_bytes: Positive = 128 << 20
    read_ahead_bytes: Positive = 64 << 20
    read_threads: NonNegative | None = None
    prepare_threads: NonNegative | None = None
    timeout_seconds: Annotated[float, Gt(0)] = 300.0
    latency_ms: Annotated[float, Ge(0)] | None = None
    connection_mb_per_second: Annotated[float, Gt(0)] | None = None
    cache: str | None = None
    cache_bytes: Positive = 64 << 30
    materialise: Literal["auto", "always", "never"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.latency_ms is None) != (self.connection_mb_per_second is None):
            raise InputError("latency_ms and connection_mb_per_second: give both, or neither")

    def num_read_threads(self, *, is_local: bool) -> int:
        """Return the number of reading threads, for local files or an object store."""
        if self.read_threads is not None:
            return self.read_threads
        if not is_local:
            return _REMOTE_THREADS
        return 0 if _has_one_cpu() else _LOCAL_THREADS

    @property
    def num_prepare_threads(self) -> int:
        if self.prepare_threads is not None:
            return self.prepare_threads
        return 0 if _has_one_cpu() else _PREPARE_THREADS


def _has_one_cpu() -> bool:
    # macOS does not tell which CPUs a process may use.
    allowed_cpus = getattr(os, "sched_getaffinity", None)
    return (os.cpu_count() if allowed_cpus is None else len(allowed_cpus(0))) == 1
