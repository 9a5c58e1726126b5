"""Shuffled rows: the rows of an index, or those of one origin, as shuffle blocks in random order.

A shuffle block is small enough for memory. See `order.py` for the two shuffles.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat

import numpy as np
import numpy.typing as npt

from attent_select.stats.permutation import permute
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from trainers.settings import StreamingSettings
from trainers.streaming.index_rows import Ids, RowSubset

# A block mixes at least this many reads, so that a shard larger than a block is still mixed with
# others.
_READS_PER_BLOCK = 8
# The first blocks of the first epoch are 1/128, 1/64, … of a whole one, and have at most 16, 32, …
# reads, because each read costs requests.
_SMALLER_BLOCKS = 7
_FIRST_READS = 16

# The number of samples of a block, and a function that returns their ids.
LazyBlock = tuple[int, Callable[[], Ids]]


@dataclass(frozen=True, eq=False)
class ShuffledRows:
    """Blocks of `rows`; of `streaming`, only `shuffle` and `block_bytes` count."""

    rows: RowSubset
    seed: int
    streaming: StreamingSettings

    def blocks(self, epoch: int) -> Iterator[LazyBlock]:
        """Yield the blocks of an epoch."""
        is_full = self.streaming.shuffle == "full"
        return self._full_blocks(epoch) if is_full else self._read_blocks(epoch)

    def _full_blocks(self, epoch: int) -> Iterator[LazyBlock]:
        key = stream_key(self.seed, Purpose.SHUFFLE_ROWS, epoch)
        total, first = len(self.rows), 0
        for limit, _ in self._limits(epoch):
            if first == total:
                return
            end = min(first + max(int(limit / max(self.rows.selected.mean_bytes, 1)), 1), total)
            yield end - first, partial(self._permute_rows, np.arange(first, end), key=key)
            first = end

    def _permute_rows(self, positions: Ids, *, key: int) -> Ids:
        return self.rows.ids_of(permute(positions, size=len(self.rows), key=key))

    def _read_blocks(self, epoch: int) -> Iterator[LazyBlock]:
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
        key = stream_key(self.seed, Purpose.SHUFFLE_SHARDS, epoch)
        order = np.argsort(
            numpy_bits(key, self.rows.selected.sample_keys(self.rows.ids_of(starts))), kind="stable"
        )
        block_of = _assign_blocks(num_bytes[order], limits=self._limits(epoch))
        return np.split(order, np.flatnonzero(np.diff(block_of)) + 1)

    def _shuffle(self, epoch: int, reads: Ids) -> Ids:
        """Return the samples of `reads` in random order."""
        starts, sizes, _ = self._reads
        ids = np.concatenate([np.arange(starts[k], starts[k] + sizes[k]) for k in reads])
        ids = self.rows.ids_of(ids)
        sample_keys = self.rows.selected.sample_keys(ids)
        key = stream_key(self.seed, Purpose.SHUFFLE_ROWS, epoch)
        # Without ties: mixing is invertible, so that different keys have different bits.
        return ids[np.argsort(numpy_bits(key, sample_keys))]

    @cached_property
    def _reads(self) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
        """First id, number of samples and bytes of every read, in index order."""
        counts, sample_bytes = np.diff(self.rows.starts), self.rows.selected.sample_bytes
        read_bytes = max(self.streaming.block_bytes // _READS_PER_BLOCK, 1)
        num_reads = np.ceil(counts * sample_bytes / read_bytes).astype(np.int64)
        num_reads = np.clip(num_reads, 1, np.maximum(counts, 1))
        shard = np.repeat(np.arange(len(counts)), num_reads)
        # The ordinal of each read in its shard.
        ordinal = np.arange(len(shard)) - np.repeat(np.cumsum(num_reads) - num_reads, num_reads)
        begin, end = (counts[shard] * k // num_reads[shard] for k in (ordinal, ordinal + 1))
        sizes = end - begin
        is_filled = sizes > 0  # a shard may have no rows of one origin
        shard, begin, sizes = shard[is_filled], begin[is_filled], sizes[is_filled]
        sample_bytes = sample_bytes[shard]
        return self.rows.starts[shard] + begin, sizes, sizes * sample_bytes


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
