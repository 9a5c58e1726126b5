"""TeachingStream: the samples of an index as an iterable of collated micro-batches.

The stream's settings, its position and its face to torch. Works in a plain loop, under
`DataLoader(stream, batch_size=None, num_workers=0)`, in `fit` and in Lightning. It shards
itself: never pass it to `accelerator.prepare`, which would shard it once more and silently drop
samples.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from attent_select.errors import CorpusMismatchError, InputError, SampleError
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.read_plan import ReadPlan
from catalogs.storage import ReadCost, ReadPolicy
from trainers.settings import ReadAhead
from trainers.streaming.index_rows import SAMPLE_OVERHEAD_BYTES, Selected
from trainers.streaming.order import DEFAULT_BLOCK_BYTES, Order, Share, order_digest
from trainers.streaming.rank_reader import RankReader
from trainers.streaming.sources import Source
from trainers.streaming.stats import StreamStats
from trainers.task import UNUSABLE, Batch, Task


class TeachingStream(IterableDataset[Batch]):
    """Micro-batches of one rank, over the global batches of a canonical order.

    A batch holds the tensors of `task.collate` and
        shard_id, row  int64[batch]     which samples these are
        weight         float32[batch]   from the index; 0 for a stand-in that must not count
        denominator    float32 scalar   the global batch size: the step's loss is Σ weight·loss / it
        step           int64 scalar     optimizer step since the start of this stream
    There is no `__len__` on purpose: with one, the Trainer would cut the horizon into epochs of it.
    """

    def __init__(
        self,
        index: IndexFile,
        corpus: Corpus,
        task: Task | None = None,
        *,
        seed: int,
        batch_size: int,
        micro_batch_size: int | None = None,
        epochs: int = 1,
        rank: int = 0,
        world_size: int = 1,
        tail: str = "pad",
        shuffle: str = "block",
        start_step: int = 0,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
        read_ahead: ReadAhead | None = None,
        policy: ReadPolicy | None = None,
        compact: Corpus | None = None,
        max_skipped_share: float = 0.01,
    ) -> None:
        """Set up the stream; nothing but the index is read yet.

        Args:
            index: the selected rows.
            corpus: where they are.
            task: prepares and collates; None gives the four bookkeeping tensors only.
            seed: of the order and of augmentation.
            batch_size: samples per optimizer step, over all ranks.
            micro_batch_size: at most this many samples at once on a rank (None: its whole share).
            epochs: passes over the index, each in another order.
            rank: of this process.
            world_size: number of ranks.
            tail: `pad` or `drop` the last, incomplete global batch of an epoch.
            start_step: where to begin.
            shuffle: `block` shuffles what is near in storage, or `full`, all rows; see `order.py`.
            block_bytes: bytes (of the samples, and Python's for each) that are shuffled together,
                or with `full` read together, over all ranks; part of the order.
            read_ahead: threads, memory and patience.
            policy: what a request costs, and where ranges are kept on this node.
            compact: the selected rows alone, in their order, read instead of `corpus`; the order
                stays the same.
            max_skipped_share: more unusable samples than this share end training.
        """
        selected = _selected(index, corpus)
        self.order = Order(selected, seed, batch_size, epochs, tail, shuffle, block_bytes)
        self.share = Share(rank, world_size, batch_size, micro_batch_size)
        self.stats = StreamStats(padded=self.order.num_padded, dropped=self.order.num_dropped)
        self._identity = _identity(index, corpus, self.order)
        columns = corpus.columns if task is None else task.columns
        policy = replace(policy or ReadPolicy(), meter=self.stats.meter)
        self._reader = RankReader(
            order=self.order,
            source=Source(selected, corpus, columns, compact, policy, f"rank {rank}"),
            task=task,
            share=self.share,
            read_ahead=read_ahead or ReadAhead(),
            max_skipped_share=max_skipped_share,
            stats=self.stats,
        )
        self._process = os.getpid()
        self._next_step = self._checked_step(start_step)

    @property
    def num_steps(self) -> int:
        """Optimizer steps from the start of the first epoch to the end of the last."""
        return self.order.num_steps

    @property
    def num_samples(self) -> int:
        """Samples handed out over all epochs and ranks."""
        return self.order.num_samples

    @property
    def next_step(self) -> int:
        """The step that the next iteration begins with."""
        return self._next_step

    def __iter__(self) -> Iterator[Batch]:
        """Micro-batches from `next_step` on. Closing the iterator stops its threads."""
        if get_worker_info() is not None:
            raise InputError(
                "a TeachingStream reads with its own threads: use DataLoader(stream, "
                "batch_size=None, num_workers=0)"
            )
        self._check_process()
        started = time.perf_counter()
        part = 0
        with closing(self._reader.batches(self._next_step)) as batches:
            while True:
                self._check_process()
                asked = time.perf_counter()
                batch = next(batches, None)
                now = time.perf_counter()
                if batch is None:
                    return
                self.stats.blocked_seconds += now - asked
                self.stats.first_batch_seconds = self.stats.first_batch_seconds or now - started
                part = (part + 1) % self.share.num_parts
                if part == 0:
                    # Before the yield: a plain loop saves its state in its body.
                    self._next_step = int(batch["step"]) + 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """What identifies the order, and the samples consumed: whole optimizer steps only, the one
        whose last micro-batch was handed out included.

        A loader that reads ahead has consumed more than was trained on: a trainer that knows its
        optimizer step asks `state_at` instead.
        """
        return self.state_at(self._next_step)

    def state_at(self, step: int) -> dict[str, Any]:
        """The state after `step` optimizer steps of this stream."""
        return self._identity | {"samples_consumed": step * self.order.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, at any world size and micro-batch size.

        Raises:
            CorpusMismatchError: it was taken over another corpus or index.
            InputError: it was taken with other settings of the order.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                kind = CorpusMismatchError if name in ("corpus_id", "index_digest") else InputError
                raise kind(
                    f"the stream's state has {name} {state.get(name)!r}, this stream {value!r}: a "
                    "stream goes on only over the same order"
                )
        self._next_step = self._checked_step(state["samples_consumed"] // self.order.batch_size)

    def count_earlier(self, num_samples: int) -> None:
        """After a resume: of the samples before `next_step` all ranks together trained on
        `num_samples`. The others count towards the share that may be skipped.
        """
        skipped = self.order.samples_before(self._next_step) - num_samples
        self.stats.num_samples += num_samples // self.share.world_size
        self.stats.num_skipped += skipped // self.share.world_size

    def leave_out(self, shard_id: int, *, row: int) -> None:
        """Count a sample that was handed out and that the model could not use.

        Raises:
            InputError: those are more than the allowed share.
        """
        error = SampleError(UNUSABLE, status="unreadable")
        self.stats.count(-1, truncated=0)
        self.stats.skip(shard_id, row=row, error=error, max_share=self._reader.max_skipped_share)

    def plans(self) -> Iterator[ReadPlan]:
        """What this rank would read, piece by piece, without reading any sample."""
        return self._reader.plans()

    @property
    def read_cost(self) -> ReadCost:
        """What a request costs where the samples are."""
        return self._reader.source.cost

    def order_digest(self) -> str:
        """Hash of the whole global order: the same for every world size. Reads nothing."""
        return self.order.digest()

    def rank_digest(self) -> str:
        """Hash of the order of this rank's samples. Reads nothing."""
        shares = (
            (step, np.concatenate(self.share.of_batch(ids))) for step, ids in self.order.steps()
        )
        return order_digest(self.order.selected, shares)

    def _check_process(self) -> None:
        """Threads and connections do not survive a fork: the child would wait for ever."""
        if os.getpid() != self._process:
            raise InputError(
                f"this stream was made in process {self._process} and is used in a fork of it, "
                f"{os.getpid()}: make it in the process that trains (torchrun does), and leave "
                "num_workers at 0"
            )

    def _checked_step(self, step: int) -> int:
        if not 0 <= step <= self.order.num_steps:
            raise InputError(
                f"step {step}: expected 0 to {self.order.num_steps}, the stream's steps"
            )
        return step


def _selected(index: IndexFile, corpus: Corpus) -> Selected:
    def sample_bytes(shard_id: int) -> float:
        shard = corpus.shard(shard_id)
        return shard.num_bytes / max(shard.num_samples, 1) + SAMPLE_OVERHEAD_BYTES

    return Selected.of(index.batches(), num_samples=index.num_samples, sample_bytes=sample_bytes)


def _identity(index: IndexFile, corpus: Corpus, order: Order) -> dict[str, Any]:
    """All that the sequence of global batches depends on."""
    return {
        "corpus_id": corpus.corpus_id,
        "index_digest": index.digest,
        "seed": order.seed,
        "batch_size": order.batch_size,
        "epochs": order.epochs,
        "tail": order.tail,
        "shuffle": order.shuffle,
        "block_bytes": order.block_bytes,
    }
