"""TeachingStream: the samples of an index as an iterable of collated micro-batches.

Works in a plain loop, under `DataLoader(stream, batch_size=None, num_workers=0)`, in `fit` and in
Lightning. It shards itself: never pass it to `accelerator.prepare`, which would shard it again and
silently drop samples.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from attent_select.errors import CorpusMismatchError, InputError, SampleError
from catalogs.corpus import Corpus
from catalogs.index import IndexFile
from catalogs.read_plan import ReadPlan
from trainers.settings import OrderSettings, ScoringSettings, StreamingSettings
from trainers.streaming.index_rows import Selected
from trainers.streaming.order import Order, order_digest
from trainers.streaming.rank_reader import RankReader
from trainers.streaming.rank_share import RankShare
from trainers.streaming.sources import Source, read_policy
from trainers.streaming.stats import StreamStats
from trainers.task import UNUSABLE, Batch, Task


class TeachingStream(IterableDataset[Batch]):
    """Micro-batches of one rank, over the global batches of a canonical order.

    A batch holds the tensors of `task.collate` and
        shard_id, row  int64[batch]     which samples these are
        weight         float32[batch]   from the index; 0 for a stand-in that must not count
        denominator    float32 scalar   the global batch size: the step's loss is Σ weight·loss / it
        step           int64 scalar     optimizer step since the start of this stream
        micro_batches  int64 scalar     micro-batches of this rank in this step
    Without a task it holds the values of every column instead, a list each: a column with the name
    of a tensor above is called `<name>_column`.

    An iteration is one pass of `epochs` epochs; the next iteration continues with the next epochs,
    in other orders. `len(stream)` is the number of batches in a pass, except with
    `micro_batch_units`.
    """

    def __init__(
        self,
        index: IndexFile,
        corpus: Corpus,
        task: Task | None = None,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        epochs: int = 1,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_size: int | None = None,
        micro_batch_units: int | None = None,
        order: OrderSettings | None = None,
        share: RankShare | None = None,
        settings: StreamingSettings | None = None,
        start_step: int = 0,
        compact: Corpus | None = None,
        max_failed_share: float = ScoringSettings.max_failed_share,
    ) -> None:
        """Set up the stream; nothing but the index is read yet.

        Args:
            index: the selected rows.
            corpus: the shards that they are in.
            task: prepares and collates; None gives the columns of the corpus as they are.
            batch_size: samples per optimizer step, over all ranks; give this or `order`.
            seed: seed of the order and of augmentation.
            epochs: epochs of one pass, each in another order.
            rank: of this process, 0 to `world_size` - 1.
            world_size: number of ranks.
            micro_batch_size: most samples of one forward pass; default: the rank's whole share.
            micro_batch_units: most units of one forward pass; one of the two (default for text).
            order: seed, batch size, epochs and tail in one value.
            share: rank, world size and micro-batch size or units in one value.
            settings: shuffle, reading, threads, cache.
            start_step: where to begin.
            compact: the selected rows alone, in their order, read instead of `corpus`; the order
                stays the same.
            max_failed_share: more unusable samples than this share end training.

        Raises:
            InputError: neither `batch_size` nor `order` is given, or a value is out of range.
        """
        settings = settings or StreamingSettings()
        limits = (micro_batch_size, micro_batch_units)
        self.share = (share or RankShare(rank, world_size, *limits)).for_task(task)
        order = order or _order_settings(batch_size, seed=seed, epochs=epochs)
        self.order = Order(Selected.of_index(index, corpus), order, settings)
        padded, dropped = self.order.num_padded, self.order.num_dropped
        self.stats = StreamStats(corpus.shards, max_failed_share, padded=padded, dropped=dropped)
        self._sources, self._identity = (index, corpus), _identity(index, corpus, self.order)
        columns = corpus.columns if task is None else task.columns
        self._source = self._open_source(corpus, compact, columns=columns, settings=settings)
        self._reader = RankReader(
            self.order,
            self._source,
            task=task,
            share=self.share,
            settings=settings,
            stats=self.stats,
        )
        self._process, self._num_passes = os.getpid(), 0
        self._next_step = self._checked_step(start_step, num_passes=0)

    def _open_source(
        self,
        corpus: Corpus,
        compact: Corpus | None,
        *,
        columns: tuple[str, ...],
        settings: StreamingSettings,
    ) -> Source:
        return Source(
            self.order.selected,
            corpus,
            columns,
            compact=compact,
            policy=read_policy(settings, meter=self.stats.meter),
            reader=f"rank {self.share.rank}",
        )

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a pass, from the start of its first epoch to the end of its last."""
        return self.order.num_steps

    def __len__(self) -> int:
        """Return the number of micro-batches of this rank in a pass.

        Raises:
            TypeError: with `micro_batch_units` it is not known.
        """
        if self.share.micro_batch_units is not None:
            raise TypeError("a stream with micro_batch_units has no length")  # as `list` expects
        return self.num_steps * self.micro_batches_per_step

    @property
    def num_samples(self) -> int:
        """Samples handed out in a pass, over its epochs and all ranks."""
        return self.order.num_samples

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of this rank in every optimizer step.

        Raises:
            InputError: with `micro_batch_units` the number differs from step to step.
        """
        if self.share.micro_batch_units is not None:
            raise InputError(
                "the number of micro-batches differs from step to step: read `micro_batches` of "
                "each batch, or give micro_batch_size"
            )
        return self.share.num_micro_batches(self.order.batch_size)

    @property
    def next_step(self) -> int:
        """The step that the next iteration begins with."""
        return self._next_step

    def __iter__(self) -> Iterator[Batch]:
        """Yield micro-batches from `next_step` to the end of the pass.

        Closing the iterator stops its threads; the next one continues where it was closed.
        """
        if get_worker_info() is not None:
            raise InputError(
                "a TeachingStream reads with its own threads: use DataLoader(stream, "
                "batch_size=None, num_workers=0)"
            )
        started = time.perf_counter()
        num_taken = 0
        with closing(self._reader.batches(self._next_step, self._num_passes + 1)) as batches:
            while (batch := self._take(batches, started=started)) is not None:
                num_taken += 1
                if num_taken == int(batch["micro_batches"]):
                    # Before the yield: a plain loop saves its state in its body.
                    self._next_step, num_taken = int(batch["step"]) + 1, 0
                yield batch
        self._num_passes += 1

    def _take(self, batches: Iterator[Batch], *, started: float) -> Batch | None:
        """Return the next batch, if any, and count the time that it took."""
        self._check_process()
        request_time = time.perf_counter()
        batch = next(batches, None)
        now = time.perf_counter()
        if batch is not None:
            self.stats.blocked_seconds += now - request_time
            self.stats.first_batch_seconds = self.stats.first_batch_seconds or now - started
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what identifies the order, and the samples consumed, in whole optimizer steps: a
        step counts once its last micro-batch was handed out. A pass counts (`passes`) once its
        iterator has ended; until then, resuming continues with the rest of the pass, even an empty
        one.

        A loader that reads ahead has consumed more than was trained on: a trainer that knows its
        optimizer step calls `state_at` instead.
        """
        return self.state_at(self._next_step) | (
            {"passes": self._num_passes} if self._num_passes else {}
        )

    def state_at(self, step: int) -> dict[str, Any]:
        """Return the state after `step` optimizer steps of this stream."""
        return self._identity | {"samples_consumed": step * self.order.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken, at any world size and micro-batch size.

        Raises:
            CorpusMismatchError: it was taken over another corpus or index.
            InputError: it was taken with other settings of the order.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                kind = CorpusMismatchError if name in ("corpus_id", "index_digest") else InputError
                raise kind(
                    f"the stream's state has {name} {state.get(name)!r}, this stream {value!r}: a "
                    "stream can only be resumed over the same order"
                )
        num_passes = state.get("passes", 0)
        step = state["samples_consumed"] // self.order.batch_size
        self._next_step = self._checked_step(step, num_passes=num_passes)
        self._num_passes = num_passes

    def as_hf_iterable(self) -> Any:
        """Return the samples from `next_step` as a `datasets.IterableDataset`, for other trainers.

        A sample has the columns of the corpus, shard_id, row and weight. An iteration is the rest
        of the pass, in the order of this stream; later ones repeat it. The data set has a
        separate `state_dict`.

        Raises:
            MissingExtraError: the library `datasets` is not installed.
        """
        from trainers.streaming.hf_iterable import SampleRanges, hf_iterable

        order = self.order
        share = RankShare(self.share.rank, self.share.world_size)
        ranges = SampleRanges(*self._sources, order.settings, share, order.streaming)
        first = self._next_step % max(self.num_steps, 1)
        steps = range(first, self.num_steps)
        return hf_iterable(ranges, self._sources[1], steps=steps, batch_size=order.batch_size)

    def __repr__(self) -> str:
        order, share = self.order, self.share
        return (
            f"TeachingStream({len(order.selected)} samples, {self.num_steps} steps of"
            f" {order.batch_size}, rank {share.rank} of {share.world_size}, next_step"
            f" {self.next_step})"
        )

    def count_earlier(self, num_samples: int) -> None:
        """Count the steps before `next_step` after a resume: all ranks together trained on
        `num_samples`. The others count as samples that could not be used.
        """
        skipped = self.order.samples_before(self._next_step) - num_samples
        self.stats.num_samples += num_samples // self.share.world_size
        self.stats.num_skipped += skipped // self.share.world_size

    def leave_out(self, shard_id: int, *, row: int) -> None:
        """Count a sample that was handed out and that the model could not use.

        Raises:
            InputError: the share of such samples exceeds the allowed share.
        """
        error = SampleError(UNUSABLE, status="unreadable")
        self.stats.count(-1, truncated=0)
        self.stats.skip(shard_id, row=row, error=error)

    def plans(self) -> Iterator[ReadPlan]:
        """Yield the plan of each of this rank's reads, without reading any sample."""
        return self._reader.plans()

    def order_digest(self) -> str:
        """Return a hash of the whole global order: equal for every world size. Reads nothing."""
        return self.order.digest()

    def rank_digest(self) -> str:
        """Return a hash of the order of this rank's samples. Reads nothing."""
        batch_size = self.order.batch_size
        shares = (
            (step, np.concatenate(self.share.of_batch(ids, batch_size=batch_size)))
            for step, ids in self.order.steps()
        )
        return order_digest(self.order.selected, shares)

    def _check_process(self) -> None:
        """Refuse a fork: threads and connections do not survive it, and the child would hang."""
        if os.getpid() != self._process:
            raise InputError(
                f"this stream was made in process {self._process} and is used in a fork of it, "
                f"{os.getpid()}: make it in the process that trains (torchrun does), and leave "
                "num_workers at 0"
            )

    def _checked_step(self, step: int, *, num_passes: int) -> int:
        first = num_passes * self.order.num_steps
        last = first + self.order.num_steps
        if not first <= step <= last:
            raise InputError(f"step {step}: expected {first} to {last}, the stream's steps")
        return step


def _identity(index: IndexFile, corpus: Corpus, order: Order) -> dict[str, Any]:
    """Return everything that the sequence of global batches depends on."""
    return {
        # Rows never move: an index of an earlier version of the corpus has the same order.
        "corpus_id": index.provenance.get("corpus_id") or corpus.corpus_id,
        "index_digest": index.digest,
        **({"num_uniform": len(order.selected.uniform_ids)} if index.has_origin else {}),
        **asdict(order.settings),
        "shuffle": order.streaming.shuffle,
        "block_bytes": order.streaming.block_bytes,
    }


def _order_settings(batch_size: int | None, *, seed: int, epochs: int) -> OrderSettings:
    if batch_size is None:
        raise InputError("a TeachingStream needs batch_size (or order): expected at least 1")
    return OrderSettings(seed, batch_size, epochs)
