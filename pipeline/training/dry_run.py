"""Read a training stream without training: what an index costs to read, and the order it gives."""

import threading
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attent_select.errors import InputError
from catalogs import Corpus, IndexFile
from catalogs.shard_format import Sample
from trainers import OrderSettings, RankShare, TeachingStream
from trainers.settings import StreamingSettings
from trainers.streaming.index_rows import Ids
from trainers.streaming.order import Order
from trainers.streaming.shuffle_quality import shuffle_quality
from trainers.task import Batch

# The quality of a shuffle is measured on the first so many samples of the global order.
_MEASURED_SAMPLES = 1 << 20


@dataclass(frozen=True)
class WalkResult:
    """One rank's walk: `num_samples` are those of the rank, read or not.

    `order_digest` is of the whole global order: equal for every world size. `rank_correlation`,
    `batch_mix` and `perfect_batch_mix` are those of `ShuffleQuality`; groups are the values of the
    column that was named, else the shards. `blocked_seconds` is the time spent waiting for batches.
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


def walk(
    corpus: str,
    *,
    index: str,
    order: OrderSettings,
    share: RankShare | None = None,
    settings: StreamingSettings | None = None,
    classes: str | None = None,
    digest_only: bool = False,
) -> WalkResult:
    """Reads every selected sample of a rank with all its columns, in the order of training.

    Args:
        corpus: URL of a run with a corpus.
        index: URL of an index file of that corpus.
        order: seed, global batch size and epochs.
        share: rank, world size and micro-batch size; default: a single rank.
        settings: how to shuffle and read.
        classes: a column whose values are the groups that a shuffle should mix; default: shards.
        digest_only: read no sample; bytes and rates are 0.

    Raises:
        InputError: there is no such corpus or index, or the index is of another corpus; `classes`
            are asked for where not every sample of a batch is read.
    """
    share = share or RankShare()
    if classes is not None and (digest_only or share.world_size > 1):
        raise InputError(
            "how classes are mixed is seen in whole batches: with --classes leave --digest and "
            "--world-size out (the order is the same for every number of ranks)"
        )
    opened = Corpus.open(corpus)
    task = None if classes is None else _Classes(opened.columns, classes)
    found = IndexFile.open(index, corpus=opened)
    stream = TeachingStream(found, opened, task, order=order, share=share, settings=settings)
    measured = _Measured.of(stream.order)
    started = monotonic()
    if not digest_only:
        for batch in stream:
            if "class" in batch:
                measured.note(batch)
    seconds = monotonic() - started
    return _result(stream, measured, seconds=seconds, digest_only=digest_only)


def _result(
    stream: TeachingStream, measured: "_Measured", *, seconds: float, digest_only: bool
) -> WalkResult:
    stats = stream.stats
    quality = shuffle_quality(measured.ids, measured.groups, batch_size=stream.order.batch_size)
    return WalkResult(
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


@dataclass(frozen=True, eq=False)
class _Measured:
    """The samples that a shuffle is measured on, in training order, and the group of each: its
    shard, or what `note` finds. `keys` are their sample keys, sorted by `by_key`.
    """

    ids: Ids
    groups: npt.NDArray[np.int64]
    by_key: Ids
    keys: npt.NDArray[np.uint64]

    @staticmethod
    def of(order: Order) -> "_Measured":
        """Of the last epoch: the first one begins with smaller blocks."""
        steps = order.steps(order.num_steps - order.steps_per_epoch)
        wanted = max(_MEASURED_SAMPLES // order.batch_size, 1)
        found = islice(steps, wanted)
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in found)])
        keys = order.selected.sample_keys(ids)
        by_key = np.argsort(keys)
        groups = order.selected.shards_of(ids).astype(np.int64)
        return _Measured(ids, groups, by_key, keys[by_key])

    def note(self, batch: Batch) -> None:
        """Take the classes of a batch for the groups of its samples."""
        shards, rows = (batch[name].numpy().astype(np.uint64) for name in ("shard_id", "row"))
        keys = (shards << np.uint64(32)) | rows
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        here = self.keys[places] == keys
        self.groups[self.by_key[places[here]]] = batch["class"].numpy()[here]


class _Classes:
    """Reads all columns and numbers the values of one."""

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
