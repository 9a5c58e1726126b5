"""Dry run of the training stream (`attent stream`): cost of reading and order of samples."""

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

import torch

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile
from catalogs.shard_format import Sample
from pipeline.training.shuffle_sample import ShuffleSample
from trainers import OrderSettings, RankShare, TeachingStream
from trainers.settings import StreamingSettings
from trainers.streaming.shuffle_quality import shuffle_quality


@dataclass(frozen=True)
class StreamResult:
    """The stream of one rank: `num_samples` are those of the rank, read or not.

    `order_digest` is of the whole global order: equal for every world size. `rank_correlation`,
    `batch_mix` and `perfect_batch_mix` are those of `ShuffleQuality`; groups are the values of the
    given column, or the shards. `blocked_seconds` is the time spent waiting for batches.
    """

    num_samples: int
    num_steps: int
    order_digest: str
    rank_digest: str
    samples_per_second: float
    bytes_per_second: float
    bytes_read: int
    bytes_cached: int
    bytes_selected: int
    num_requests: int
    read_amplification: float
    first_batch_seconds: float
    blocked_seconds: float
    padded: int
    dropped: int
    rank_correlation: float
    batch_mix: float
    perfect_batch_mix: float
    seconds: float


def read_stream(
    corpus: str,
    *,
    index: str,
    order: OrderSettings,
    share: RankShare | None = None,
    settings: StreamingSettings | None = None,
    classes: str | None = None,
    digest_only: bool = False,
) -> StreamResult:
    """Read every selected sample of a rank with all its columns, in the order of training.

    Args:
        corpus: URL of a run with a corpus.
        index: URL of an index file of that corpus.
        order: seed, global batch size and epochs.
        share: rank, world size and micro-batch size; default: a single rank.
        settings: how to shuffle and read.
        classes: column whose values are the groups that a shuffle should mix; default: shards.
        digest_only: read no sample; bytes and rates are 0.

    Raises:
        InputError: there is no such corpus or index, the index is of another corpus, or `classes`
            is given where not every sample of a batch is read.
    """
    share = share or RankShare()
    if classes is not None and (digest_only or share.world_size > 1):
        raise InputError(
            "--classes cannot be combined with --digest or --world-size: the mix of classes is "
            "measured on whole batches (the order is the same for every number of ranks)"
        )
    opened = Corpus.open(corpus)
    # Only the part of a task that the stream uses.
    task: Any = None if classes is None else _ClassColumn(opened.columns, classes)
    stream = TeachingStream(
        IndexFile.open(index, corpus=opened),
        opened,
        task,
        order=order,
        share=share,
        settings=settings,
    )
    sample = ShuffleSample.of_order(stream.order)
    started = monotonic()
    if not digest_only:
        for batch in stream:
            if task is not None:
                sample.set_groups(batch)
    seconds = monotonic() - started
    return _result(stream, sample, seconds=seconds, digest_only=digest_only)


def _result(
    stream: TeachingStream, sample: ShuffleSample, *, seconds: float, digest_only: bool
) -> StreamResult:
    stats = stream.stats
    quality = shuffle_quality(sample.ids, sample.groups, batch_size=stream.order.batch_size)
    return StreamResult(
        num_samples=stream.share.num_samples(stream.order) if digest_only else stats.num_samples,
        num_steps=stream.num_steps,
        order_digest=stream.order_digest(),
        rank_digest=stream.rank_digest(),
        samples_per_second=stats.num_samples / seconds if stats.num_samples else 0.0,
        bytes_per_second=stats.bytes_read / seconds if stats.num_samples else 0.0,
        bytes_read=stats.bytes_read,
        bytes_cached=stats.bytes_cached,
        bytes_selected=stats.bytes_selected,
        num_requests=stats.num_requests,
        read_amplification=stats.read_amplification,
        first_batch_seconds=stats.first_batch_seconds,
        blocked_seconds=stats.blocked_seconds,
        padded=stats.padded,
        dropped=stats.dropped,
        rank_correlation=quality.rank_correlation,
        batch_mix=quality.batch_mix,
        perfect_batch_mix=quality.perfect_batch_mix,
        seconds=seconds,
    )


class _ClassColumn:
    """Task that keeps all columns of a sample and numbers the values of one."""

    def __init__(self, columns: tuple[str, ...], column: str) -> None:
        self.columns = columns if column in columns else (*columns, column)
        self._column = column
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def prepare(self, sample: Sample, *, generator: torch.Generator | None) -> dict[str, Any]:
        with self._lock:
            return {
                "class": self._numbers.setdefault(repr(sample[self._column]), len(self._numbers))
            }

    def collate(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"class": torch.tensor([item["class"] for item in items])}
