"""The canonical order of training: which samples make up which global batch.

Pure numpy over the rows of an index. The sequence of global batches depends only on the index, its
corpus, the seed, the epoch, the global batch size and the shuffle, never on the number of ranks or
threads. A sample is named by its `id`: its position in the index, in (shard, row) order
(`index_rows.py`).

Samples are handed out one shuffle block after the other, each small enough for memory. There are
two shuffles:

- `block`: each shard's selected rows are cut into reads; the reads, in random order, are grouped
  into blocks; the rows of a block are shuffled. So a shard is read in few places.
- `full`: a random permutation of all selected rows is cut into blocks. Samples of a block come
  from everywhere, and those of the same shard are read together.

If an index has rows of two origins (`schema.INDEX_ORIGIN`), each origin is shuffled by itself, and
the two are merged so that every global batch has its share of each to within one sample.

The first blocks of a training are small, so that it begins before a whole block is read.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Ids, Selected, subsets_by_origin
from trainers.streaming.shuffle import LazyBlock, ShuffledRows


@dataclass(frozen=True, eq=False)
class Block:
    """Samples that are shuffled together. `first` is the position of `ids[0]` in its epoch."""

    epoch: int
    first: int
    ids: Ids


@dataclass(frozen=True, eq=False)
class Order:
    """The global batches of all passes over an index.

    Of `streaming`, only `shuffle` and `block_bytes` count. With `tail="pad"` the last global batch
    of an epoch is short: its missing samples count as padding of weight 0 (`num_padded`). With
    `tail="drop"` that batch is left out of the epoch (`num_dropped`); the samples in it differ from
    epoch to epoch.
    """

    selected: Selected
    settings: OrderSettings
    streaming: StreamingSettings

    @property
    def batch_size(self) -> int:
        """Samples per optimizer step, over all ranks."""
        return self.settings.batch_size

    @property
    def steps_per_epoch(self) -> int:
        full, rest = divmod(len(self.selected), self.batch_size)
        return full + (rest > 0 and self.settings.tail == "pad")

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.settings.epochs

    @property
    def num_samples(self) -> int:
        """Samples handed out over all epochs."""
        return min(self._epoch_end, len(self.selected)) * self.settings.epochs

    @property
    def num_padded(self) -> int:
        return max(self._epoch_end - len(self.selected), 0) * self.settings.epochs

    @property
    def num_dropped(self) -> int:
        return max(len(self.selected) - self._epoch_end, 0) * self.settings.epochs

    def blocks(self, start_step: int = 0) -> Iterator[Block]:
        """Yield the blocks in training order, from the first sample of `start_step`."""
        if not self.steps_per_epoch:
            return
        first_epoch, step = divmod(start_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.settings.epochs):
            yield from self._epoch_blocks(epoch, start=step * self.batch_size)
            step = 0

    def steps(self, start_step: int = 0) -> Iterator[tuple[int, Ids]]:
        """Yield (step, ids of its global batch) from `start_step`; a short tail has fewer ids."""
        step = start_step
        waiting = np.zeros(0, np.int64)
        for block in self.blocks(start_step):
            position = block.first - len(waiting)
            waiting = np.concatenate([waiting, block.ids])
            at_epoch_end = block.first + len(block.ids) >= min(self._epoch_end, len(self.selected))
            while len(waiting) >= self.batch_size or (at_epoch_end and len(waiting)):
                assert position % self.batch_size == 0
                yield step, waiting[: self.batch_size]
                waiting = waiting[self.batch_size :]
                position += self.batch_size
                step += 1

    def samples_before(self, step: int) -> int:
        """Return the number of samples of all steps before `step`."""
        epoch, within = divmod(step, max(self.steps_per_epoch, 1))
        per_epoch = self.num_samples // self.settings.epochs
        return epoch * per_epoch + min(within * self.batch_size, per_epoch)

    def digest(self) -> str:
        """Return a hash over every (step, shard_id, row) in order."""
        return order_digest(self.selected, self.steps())

    @property
    def _epoch_end(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def _epoch_blocks(self, epoch: int, *, start: int) -> Iterator[Block]:
        stop = min(self._epoch_end, len(self.selected))
        end = 0
        for size, ids_of in self._blocks_of(epoch):
            first, end = end, end + size
            if end > start and first < stop:
                low, high = max(start, first), min(stop, end)
                yield Block(epoch=epoch, first=low, ids=ids_of()[low - first : high - first])

    def _blocks_of(self, epoch: int) -> Iterator[LazyBlock]:
        if len(self._origins) == 1:
            return self._origins[0].blocks(epoch)
        return self._mixed_blocks(epoch)

    def _mixed_blocks(self, epoch: int) -> Iterator[LazyBlock]:
        """Yield blocks in which the uniform rows are spread evenly among the others.

        The first p positions of an epoch have ⌊p·uniform/all⌋ uniform rows.
        """
        by_key, uniform = self._origins
        total, num_uniform = len(self.selected), len(uniform.rows)
        ranges = self._mixed_ranges(by_key.blocks(epoch))
        uniform_ids = _Slices(uniform, epoch)
        for first, end, ids_of in ranges:
            between = slice(first * num_uniform // total, end * num_uniform // total)

            def mix(
                first: int = first,
                end: int = end,
                ids_of: Callable[[], Ids] = ids_of,
                between: slice = between,
            ) -> Ids:
                before = np.arange(first, end + 1) * num_uniform // total
                is_uniform = np.diff(before) > 0
                ids = np.empty(end - first, np.int64)
                ids[~is_uniform] = ids_of()
                ids[is_uniform] = uniform_ids.take(between)
                return ids

            yield end - first, mix

    def _mixed_ranges(
        self, blocks: Iterator[LazyBlock]
    ) -> Iterator[tuple[int, int, Callable[[], Ids]]]:
        """Yield first and last position of each block of rows by key, and the block's ids."""
        total, num_by_key = len(self.selected), len(self._origins[0].rows)
        first = count = 0
        for size, ids_of in blocks:
            count += size
            # The last position up to which there are `count` rows by key.
            end = count * total // num_by_key
            yield first, end, ids_of
            first = end

    @cached_property
    def _origins(self) -> tuple[ShuffledRows, ...]:
        """All rows, or those selected by key and those drawn uniformly."""
        subsets = subsets_by_origin(self.selected)
        shares = (len(subset) / max(len(self.selected), 1) for subset in subsets)
        return tuple(
            ShuffledRows(
                subset,
                self.settings.seed,
                replace(
                    self.streaming, block_bytes=max(int(self.streaming.block_bytes * share), 1)
                ),
            )
            for subset, share in zip(subsets, shares, strict=True)
        )


@dataclass
class _Slices:
    """Slices of the ids of shuffled rows, ascending; skipped ones are never computed."""

    rows: ShuffledRows
    epoch: int

    def __post_init__(self) -> None:
        self._blocks = self.rows.blocks(self.epoch)
        self._end = 0
        self._ids = np.zeros(0, np.int64)
        self._ids_of: Callable[[], Ids] | None = None

    def take(self, part: slice) -> Ids:
        """Return the ids at `part`, which begins where an earlier one ended, or later."""
        slices = [np.zeros(0, np.int64)]
        first = part.start
        while first < part.stop:
            while self._end <= first:
                size, self._ids_of = next(self._blocks)
                self._end += size
            if self._ids_of is not None:
                self._ids, self._ids_of = self._ids_of(), None
            stop = min(part.stop, self._end)
            begin = len(self._ids) - (self._end - first)
            slices.append(self._ids[begin : begin + stop - first])
            first = stop
        return np.concatenate(slices)


def order_digest(selected: Selected, steps: Iterator[tuple[int, Ids]]) -> str:
    """Return a hash over the (step, shard_id, row) of `steps`, in order; memory is bounded."""
    digest = hashlib.blake2b(digest_size=16)
    for step, ids in steps:
        digest.update(np.uint64(step).astype("<u8").tobytes())
        digest.update(selected.sample_keys(ids).astype("<u8").tobytes())
    return digest.hexdigest()
