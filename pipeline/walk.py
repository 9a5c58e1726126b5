"""Walks a training stream without training: what reading an index costs, and which order it gives.

Here: `attent stream`. Not here: the stream (`trainers/stream.py`).
"""

from dataclasses import dataclass
from time import monotonic

from catalogs import Corpus, IndexFile
from trainers import TeachingStream


@dataclass(frozen=True)
class WalkResult:
    """One rank's walk: `num_samples` are those of the rank, read or not.

    `order_digest` is of the whole global order: equal for every world size.
    """

    num_samples: int
    num_steps: int
    order_digest: str
    rank_digest: str
    samples_per_second: float
    bytes_read: int
    bytes_selected: int
    num_requests: int
    read_amplification: float
    first_batch_seconds: float
    padded: int
    dropped: int
    seconds: float


def walk(
    corpus: str,
    *,
    index: str,
    batch_size: int,
    world_size: int = 1,
    rank: int = 0,
    epochs: int = 1,
    seed: int = 0,
    digest_only: bool = False,
) -> WalkResult:
    """Reads every selected sample of `rank` with all its columns, in the order of training.

    Args:
        corpus: URL of a run with a corpus.
        index: URL of an index file of that corpus.
        batch_size: samples per optimizer step over all ranks.
        world_size: ranks.
        rank: the one to walk.
        epochs: passes over the index.
        seed: of the order.
        digest_only: read no sample; bytes and rates are 0.

    Raises:
        InputError: there is no such corpus or index, or the index is of another corpus.
    """
    opened = Corpus.open(corpus)
    stream = TeachingStream(
        IndexFile.open(index, corpus=opened),
        opened,
        seed=seed,
        batch_size=batch_size,
        epochs=epochs,
        rank=rank,
        world_size=world_size,
    )
    started = monotonic()
    if not digest_only:
        for _ in stream:
            pass
    return _result(stream, seconds=monotonic() - started, digest_only=digest_only)


def _result(stream: TeachingStream, *, seconds: float, digest_only: bool) -> WalkResult:
    stats = stream.stats
    return WalkResult(
        num_samples=_samples_of_rank(stream) if digest_only else stats.num_samples,
        num_steps=stream.num_steps,
        order_digest=stream.order_digest(),
        rank_digest=stream.rank_digest(),
        samples_per_second=stats.num_samples / seconds if stats.num_samples else 0.0,
        bytes_read=stats.bytes_read,
        bytes_selected=stats.bytes_selected,
        num_requests=stats.num_requests,
        read_amplification=stats.read_amplification,
        first_batch_seconds=stats.first_batch_seconds,
        padded=stats.padded,
        dropped=stats.dropped,
        seconds=seconds,
    )


def _samples_of_rank(stream: TeachingStream) -> int:
    parts = (part for _, ids in stream.order.steps() for part in stream.share.of_batch(ids))
    return sum(len(part) for part in parts)
