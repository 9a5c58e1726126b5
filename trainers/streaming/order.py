"""The canonical order of training: which samples make up which global batch.

Pure numpy over the rows of an index. The sequence of global batches depends only on the index,
its corpus, the seed, the epoch, the global batch size and the shuffle block; never on the
number of ranks or threads. A sample is named by its `id`: its position in the index, in (shard,
row) order (`index_rows.py`).

Samples are handed out block by block, a block being what memory holds: bounded in bytes. There
are two shuffles. `block` is the one that storage can serve: each shard's selected rows are cut
into pieces; the pieces, in random order, are grouped into blocks; the rows of a block are
shuffled. So a shard is read in few places. `full` is a random permutation of all selected rows,
cut into blocks: every sample is read from anywhere, and a block reads what it can of a shard
together. The first blocks of a training are small, so that it begins before a whole one is
read.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import repeat

import numpy as np
import numpy.typing as npt

from attent_select.errors import InputError
from attent_select.stats.permutation import permute
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from trainers.streaming.index_rows import Ids, Selected

TAILS = ("pad", "drop")
SHUFFLES = ("block", "full")
DEFAULT_BLOCK_BYTES = 128 << 20
# A block mixes at least this many pieces, so that a shard larger than a block is still mixed with
# others.
_PIECES_PER_BLOCK = 8
# The first blocks of the first epoch are a 128th, a 64th, … of a whole one, and have at most 16,
# 32, … pieces, as each piece costs requests.
_SMALLER_BLOCKS = 7
_FIRST_PIECES = 16

# How many samples a block has, and what gives them.
_LazyBlock = tuple[int, Callable[[], Ids]]


@dataclass(frozen=True, eq=False)
class Block:
    """Samples that are shuffled together. `first` is the place of `ids[0]` in its epoch."""

    epoch: int
    first: int
    ids: Ids


@dataclass(frozen=True)
class Share:
    """What one of `world_size` ranks takes of every global batch, in parts of at most
    `micro_batch_size` samples (None: in one).
    """

    rank: int
    world_size: int
    batch_size: int
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} of {self.world_size}: expected 0 <= rank < world_size"
            )
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise InputError(f"micro_batch_size is {self.micro_batch_size}: expected at least 1")

    @property
    def num_parts(self) -> int:
        """Micro-batches of a step: the same number on every rank and in every step."""
        size = -(-self.batch_size // self.world_size)
        return -(-size // min(self.micro_batch_size or size, size))

    def of_batch(self, ids: Ids) -> list[Ids]:
        """The rank's micro-batches of a global batch; of a short one some may be empty.

        Each rank takes a run of neighbours in the index, so that few ranks read the same row group.
        Within the share the batch's order stays.
        """
        if self.world_size > 1:
            mine = np.array_split(np.argsort(ids), self.world_size)[self.rank]
            ids = ids[np.sort(mine)]
        return np.array_split(ids, self.num_parts) if self.num_parts > 1 else [ids]

    def of_blocks(self, order: "Order", start_step: int = 0) -> Iterator[Ids]:
        """The samples of each block that the rank trains on: the same that `of_batch` gives it."""
        if self.world_size == 1:
            yield from (block.ids for block in order.blocks(start_step))
            return
        steps = order.steps(start_step)
        taken = np.zeros(0, np.int64)
        # Samples by which the steps are ahead of the blocks: a batch may lie in several blocks.
        ahead = 0
        for block in order.blocks(start_step):
            parts = [taken]
            ahead -= len(block.ids)
            while ahead < 0:
                _, ids = next(steps)
                ahead += len(ids)
                parts += self.of_batch(ids)
            taken = np.concatenate(parts)
            here = np.isin(taken, block.ids)
            yield taken[here]
            taken = taken[~here]


@dataclass(frozen=True, eq=False)
class Order:
    """The global batches of `epochs` passes over an index.

    With `tail="pad"` the last global batch of an epoch is short: the slots that no sample fills
    count as padding of weight 0 (`num_padded`). With `tail="drop"` its samples are left out of that
    epoch (`num_dropped`); which ones differs from epoch to epoch.
    """

    selected: Selected
    seed: int
    batch_size: int
    epochs: int = 1
    tail: str = "pad"
    shuffle: str = "block"
    block_bytes: int = DEFAULT_BLOCK_BYTES

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "block_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.tail not in TAILS:
            raise InputError(f"tail is {self.tail!r}: expected one of {', '.join(TAILS)}")
        if self.shuffle not in SHUFFLES:
            raise InputError(f"shuffle is {self.shuffle!r}: expected one of {', '.join(SHUFFLES)}")

    @property
    def steps_per_epoch(self) -> int:
        full, rest = divmod(len(self.selected), self.batch_size)
        return full + (rest > 0 and self.tail == "pad")

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def num_samples(self) -> int:
        """Samples handed out over all epochs."""
        return min(self._epoch_end, len(self.selected)) * self.epochs

    @property
    def num_padded(self) -> int:
        return max(self._epoch_end - len(self.selected), 0) * self.epochs

    @property
    def num_dropped(self) -> int:
        return max(len(self.selected) - self._epoch_end, 0) * self.epochs

    def blocks(self, start_step: int = 0) -> Iterator[Block]:
        """The blocks in training order, from the first sample of `start_step` on."""
        if not self.steps_per_epoch:
            return
        first_epoch, step = divmod(start_step, self.steps_per_epoch)
        for epoch in range(first_epoch, self.epochs):
            yield from self._epoch_blocks(epoch, start=step * self.batch_size)
            step = 0

    def steps(self, start_step: int = 0) -> Iterator[tuple[int, Ids]]:
        """(step, ids of its global batch) from `start_step` on; a short tail has fewer ids."""
        step = start_step
        waiting = np.zeros(0, np.int64)
        for block in self.blocks(start_step):
            place = block.first - len(waiting)
            waiting = np.concatenate([waiting, block.ids])
            at_epoch_end = block.first + len(block.ids) >= min(self._epoch_end, len(self.selected))
            while len(waiting) >= self.batch_size or (at_epoch_end and len(waiting)):
                assert place % self.batch_size == 0
                yield step, waiting[: self.batch_size]
                waiting = waiting[self.batch_size :]
                place += self.batch_size
                step += 1

    def samples_before(self, step: int) -> int:
        """Samples of all steps before `step`."""
        epoch, within = divmod(step, max(self.steps_per_epoch, 1))
        per_epoch = self.num_samples // self.epochs
        return epoch * per_epoch + min(within * self.batch_size, per_epoch)

    def digest(self) -> str:
        """Hash over every (step, shard_id, row) in order."""
        return order_digest(self.selected, self.steps())

    @property
    def _epoch_end(self) -> int:
        return self.steps_per_epoch * self.batch_size

    def _epoch_blocks(self, epoch: int, *, start: int) -> Iterator[Block]:
        blocks = self._full_blocks if self.shuffle == "full" else self._piece_blocks
        stop = min(self._epoch_end, len(self.selected))
        end = 0
        for size, ids_of in blocks(epoch):
            first, end = end, end + size
            if end > start and first < stop:
                low, high = max(start, first), min(stop, end)
                yield Block(epoch=epoch, first=low, ids=ids_of()[low - first : high - first])

    def _full_blocks(self, epoch: int) -> Iterator[_LazyBlock]:
        key = stream_key(self.seed, Purpose.SHUFFLE_ROWS, epoch)
        total, first = len(self.selected), 0
        for limit, _ in self._limits(epoch):
            if first == total:
                return
            end = min(first + max(int(limit / max(self.selected.mean_bytes, 1)), 1), total)
            places = np.arange(first, end)
            yield end - first, partial(permute, places, size=total, key=key)
            first = end

    def _piece_blocks(self, epoch: int) -> Iterator[_LazyBlock]:
        _, sizes, _ = self._pieces
        for pieces in self._grouped_pieces(epoch):
            yield int(sizes[pieces].sum()), partial(self._shuffled, epoch, pieces)

    def _limits(self, epoch: int) -> Iterator[tuple[int, float]]:
        """Bytes and pieces that one block after the other may have."""
        if epoch == 0:
            for k in range(_SMALLER_BLOCKS):
                yield max(self.block_bytes >> (_SMALLER_BLOCKS - k), 1), _FIRST_PIECES << k
        yield from repeat((self.block_bytes, math.inf))

    def _grouped_pieces(self, epoch: int) -> list[Ids]:
        """The epoch's pieces in random order, those of one block together."""
        starts, _, num_bytes = self._pieces
        if not len(starts):
            return []
        key = stream_key(self.seed, Purpose.SHUFFLE_SHARDS, epoch)
        order = np.argsort(numpy_bits(key, self.selected.sample_keys(starts)), kind="stable")
        block_of = _group(num_bytes[order], limits=self._limits(epoch))
        return np.split(order, np.flatnonzero(np.diff(block_of)) + 1)

    def _shuffled(self, epoch: int, pieces: Ids) -> Ids:
        starts, sizes, _ = self._pieces
        ids = np.concatenate([np.arange(starts[p], starts[p] + sizes[p]) for p in pieces])
        sample_keys = self.selected.sample_keys(ids)
        key = stream_key(self.seed, Purpose.SHUFFLE_ROWS, epoch)
        # Different keys have different bits: mixing them can be undone.
        return ids[np.argsort(numpy_bits(key, sample_keys))]

    @cached_property
    def _pieces(self) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
        """First id, number of samples and bytes of every piece, in index order."""
        counts, sample_bytes = np.diff(self.selected.starts), self.selected.sample_bytes
        piece_bytes = max(self.block_bytes // _PIECES_PER_BLOCK, 1)
        wanted = np.ceil(counts * sample_bytes / piece_bytes).astype(np.int64)
        pieces = np.clip(wanted, 1, np.maximum(counts, 1))
        shard = np.repeat(np.arange(len(counts)), pieces)
        # Which piece of its shard each one is.
        place = np.arange(len(shard)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        begin, end = (counts[shard] * k // pieces[shard] for k in (place, place + 1))
        sizes = end - begin
        return self.selected.starts[shard] + begin, sizes, sizes * sample_bytes[shard]


def order_digest(selected: Selected, steps: Iterator[tuple[int, Ids]]) -> str:
    """Hash over the (step, shard_id, row) of `steps`, in order; bounded memory."""
    digest = hashlib.blake2b(digest_size=16)
    for step, ids in steps:
        digest.update(np.uint64(step).astype("<u8").tobytes())
        digest.update(selected.sample_keys(ids).astype("<u8").tobytes())
    return digest.hexdigest()


def _group(num_bytes: npt.NDArray[np.float64], *, limits: Iterator[tuple[int, float]]) -> Ids:
    """Number consecutive pieces by block: a block is closed before it would pass its limits."""
    block_of = np.zeros(len(num_bytes), np.int64)
    block, total, count = 0, 0.0, 0
    most_bytes, most_pieces = next(limits)
    for place, size in enumerate(num_bytes.tolist()):
        if place and (total + size > most_bytes or count == most_pieces):
            block, total, count = block + 1, 0.0, 0
            most_bytes, most_pieces = next(limits)
        block_of[place] = block
        total, count = total + size, count + 1
    return block_of
