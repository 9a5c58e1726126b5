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

The first blocks of a training are small, so that it begins before a whole block is read.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat

import numpy as np
import numpy.typing as npt

from attent_select.stats.permutation import permute
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Ids, Selected

# A block mixes at least this many reads, so that a shard larger than a block is still mixed with
# others.
_READS_PER_BLOCK = 8
# The first blocks of the first epoch are 1/128, 1/64, … of a whole one, and have at most 16, 32, …
# reads, because each read costs requests.
_SMALLER_BLOCKS = 7
_FIRST_READS = 16

# The number of samples of a block, and a function that returns their ids.
_LazyBlock = tuple[int, Callable[[], Ids]]


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
        blocks = self._full_blocks if self.streaming.shuffle == "full" else self._read_blocks
        stop = min(self._epoch_end, len(self.selected))
        end = 0
        for size, ids_of in blocks(epoch):
            first, end = end, end + size
            if end > start and first < stop:
                low, high = max(start, first), min(stop, end)
                yield Block(epoch=epoch, first=low, ids=ids_of()[low - first : high - first])

    def _full_blocks(self, epoch: int) -> Iterator[_LazyBlock]:
        key = stream_key(self.settings.seed, Purpose.SHUFFLE_ROWS, epoch)
        total, first = len(self.selected), 0
        for limit, _ in self._limits(epoch):
            if first == total:
                return
            end = min(first + max(int(limit / max(self.selected.mean_bytes, 1)), 1), total)
            positions = np.arange(first, end)
            yield end - first, partial(permute, positions, size=total, key=key)
            first = end

    def _read_blocks(self, epoch: int) -> Iterator[_LazyBlock]:
        _, sizes, _ = self._reads
        for reads in self._group_reads(epoch):
            yield int(sizes[reads].sum()), partial(self._shuffle, epoch, reads)

    def _limits(self, epoch: int) -> Iterator[tuple[int, float]]:
        """Yield the most bytes and reads of one block after the other."""
        if epoch == 0:
            for k in range(_SMALLER_BLOCKS):
                yield max(self.streaming.block_bytes >> (_SMALLER_BLOCKS - k), 1), _FIRST_READS << k
        yield from repeat((self.streaming.block_bytes, math.inf))

    def _group_reads(self, epoch: int) -> list[Ids]:
        """Return the epoch's reads in random order, grouped into blocks."""
        starts, _, num_bytes = self._reads
        if not len(starts):
            return []
        key = stream_key(self.settings.seed, Purpose.SHUFFLE_SHARDS, epoch)
        order = np.argsort(numpy_bits(key, self.selected.sample_keys(starts)), kind="stable")
        block_of = _assign_blocks(num_bytes[order], limits=self._limits(epoch))
        return np.split(order, np.flatnonzero(np.diff(block_of)) + 1)

    def _shuffle(self, epoch: int, reads: Ids) -> Ids:
        """Return the samples of `reads` in random order."""
        starts, sizes, _ = self._reads
        ids = np.concatenate([np.arange(starts[k], starts[k] + sizes[k]) for k in reads])
        sample_keys = self.selected.sample_keys(ids)
        key = stream_key(self.settings.seed, Purpose.SHUFFLE_ROWS, epoch)
        # Without ties: mixing is invertible, so that different keys have different bits.
        return ids[np.argsort(numpy_bits(key, sample_keys))]

    @cached_property
    def _reads(self) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
        """First id, number of samples and bytes of every read, in index order."""
        counts, sample_bytes = np.diff(self.selected.starts), self.selected.sample_bytes
        read_bytes = max(self.streaming.block_bytes // _READS_PER_BLOCK, 1)
        num_reads = np.ceil(counts * sample_bytes / read_bytes).astype(np.int64)
        num_reads = np.clip(num_reads, 1, np.maximum(counts, 1))
        shard = np.repeat(np.arange(len(counts)), num_reads)
        # The ordinal of each read in its shard.
        ordinal = np.arange(len(shard)) - np.repeat(np.cumsum(num_reads) - num_reads, num_reads)
        begin, end = (counts[shard] * k // num_reads[shard] for k in (ordinal, ordinal + 1))
        sizes = end - begin
        return self.selected.starts[shard] + begin, sizes, sizes * sample_bytes[shard]


def order_digest(selected: Selected, steps: Iterator[tuple[int, Ids]]) -> str:
    """Return a hash over the (step, shard_id, row) of `steps`, in order; memory is bounded."""
    digest = hashlib.blake2b(digest_size=16)
    for step, ids in steps:
        digest.update(np.uint64(step).astype("<u8").tobytes())
        digest.update(selected.sample_keys(ids).astype("<u8").tobytes())
    return digest.hexdigest()


def _assign_blocks(
    num_bytes: npt.NDArray[np.float64], *, limits: Iterator[tuple[int, float]]
) -> Ids:
    """Return the block of each read: a block is closed before it would exceed its limits."""
    block_of = np.zeros(len(num_bytes), np.int64)
    block, total, count = 0, 0.0, 0
    most_bytes, most_reads = next(limits)
    for number, size in enumerate(num_bytes.tolist()):
        if number and (total + size > most_bytes or count == most_reads):
            block, total, count = block + 1, 0.0, 0
            most_bytes, most_reads = next(limits)
        block_of[number] = block
        total, count = total + size, count + 1
    return block_of
