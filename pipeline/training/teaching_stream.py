"""The `streaming` section of a configuration → how training and `attent stream` read.

One stream for one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from catalogs import Corpus, IndexFile, storage
from pipeline.config.run_config import frozen_section, overridden
from pipeline.config.sections import StreamingSettings
from pipeline.config.validation import check
from trainers import TeachingStream
from trainers.settings import ReadAhead

_MB = 1e6


@dataclass(frozen=True)
class Place:
    """Which of how many ranks reads, in which batches, for how long."""

    seed: int
    batch_size: int
    micro_batch_size: int | None = None
    epochs: int = 1
    rank: int = 0
    world_size: int = 1


def open_stream(
    index: IndexFile,
    corpus: Corpus,
    task: Any,
    *,
    place: Place,
    settings: StreamingSettings,
    compact: Corpus | None = None,
    max_skipped_share: float = 0.01,
) -> TeachingStream:
    """The stream of one rank. Raises what `TeachingStream` raises."""
    return TeachingStream(
        index,
        corpus,
        task,
        seed=place.seed,
        batch_size=place.batch_size,
        micro_batch_size=place.micro_batch_size,
        epochs=place.epochs,
        rank=place.rank,
        world_size=place.world_size,
        shuffle=settings.shuffle,
        block_bytes=settings.block_bytes,
        read_ahead=ReadAhead(
            num_read_threads=settings.read_threads,
            num_prepare_threads=settings.prepare_threads,
            max_bytes=settings.read_ahead_bytes,
            timeout_seconds=settings.timeout_seconds,
        ),
        policy=read_policy(settings),
        compact=compact,
        max_skipped_share=max_skipped_share,
    )


def settings_of(run: str, overrides: Sequence[str]) -> StreamingSettings:
    """Those of the run, else the defaults, with `key=value` each replacing one. Raises `InputError`
    for a wrong one.
    """
    values = frozen_section(run, "streaming")
    return check(StreamingSettings, overridden(values, overrides), source="--set")


def read_policy(settings: StreamingSettings) -> storage.ReadPolicy:
    """What a request costs, and the node's cache."""
    cost, cache = None, None
    if settings.latency_ms is not None and settings.connection_mb_per_second is not None:
        cost = storage.ReadCost(
            latency_seconds=settings.latency_ms / 1000,
            bytes_per_second=settings.connection_mb_per_second * _MB,
        )
    if settings.cache is not None:
        cache = storage.NodeCache(settings.cache, max_bytes=settings.cache_bytes)
    return storage.ReadPolicy(cost=cost, cache=cache)


def connections_of(settings: StreamingSettings, *, url: str) -> int:
    """How many requests a rank has under way."""
    ahead = ReadAhead(num_read_threads=settings.read_threads)
    return max(ahead.read_threads(is_local=storage.is_local(url)), 1)
