"""The canonical order of training: which samples make up which global batch.

Here: pure numpy over the rows of an index. Not here: reading, threads or tensors (`stream.py`). The
sequence of global batches depends only on the index, its corpus, the seed, the epoch, the global
batch size and the shuffle block; never on the number of ranks or threads. A sample is named by its
`id`: its position in the index, in (shard, row) order.

The shuffle is the one that storage can serve. Each shard's selected rows are cut into pieces; the
pieces, in random order, are grouped into blocks of bounded bytes; the rows of a block are shuffled.
Whoever reads a block once, shard by shard, can hand out its rows in random order from memory.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from attent_select.errors import InputError
from attent_select.randomness import Purpose, numpy_bits, stream_key

Ids = npt.NDArray[np.int64]

TAILS = ("pad", "drop")
DEFAULT_BLOCK_BYTES = 512 << 20
# A block mixes at least this many pieces, so that a shard larger than a block is still mixed with
# others.
_PIECES_PER_BLOCK = 8


@dataclass(frozen=True, eq=False)
class Selected:
    """The rows of an index as flat arrays, in (shard, row) order: 8 bytes per sample.

    The rows of `shard_ids[k]` are `rows[starts[k]:starts[k + 1]]`; `sample_bytes[k]` is the mean
    size of that shard's samples at rest.
    """

    shard_ids: npt.NDArray[np.uint32]
    starts: Ids
    rows: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.float32]
    sample_bytes: npt.NDArray[np.float64]

    @staticmethod
    def of(
        rows_by_shard: Mapping[int, tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]],
        *,
        sample_bytes: Mapping[int, float],
    ) -> "Selected":
        """Flatten `shard_id → (rows ascending, weights)`."""
        shards = [shard for shard in sorted(rows_by_shard) if len(rows_by_shard[shard][0])]
        parts = [rows_by_shard[shard] for shard in shards]
        counts = [len(rows) for rows, _ in parts]
        return Selected(
            shard_ids=np.array(shards, dtype=np.uint32),
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows=np.concatenate([np.zeros(0, np.uint32), *(rows for rows, _ in parts)]),
            weights=np.concatenate([np.zeros(0, np.float32), *(weights for _, weights in parts)]),
            sample_bytes=np.array([sample_bytes[shard] for shard in shards], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def shard_ordinals(self, ids: Ids) -> Ids:
        """For each id the `k` of its shard in `shard_ids`."""
        return np.asarray(np.searchsorted(self.starts, ids, side="right") - 1, dtype=np.int64)

    def shards_of(self, ids: Ids) -> npt.NDArray[np.uint32]:
        return self.shard_ids[self.shard_ordinals(ids)]

    def sample_keys(self, ids: Ids) -> npt.NDArray[np.uint64]:
        """`shard_id << 32 | row`, as in `schema.sample_key`."""
        shards = self.shards_of(ids).astype(np.uint64)
        return (shards << np.uint64(32)) | self.rows[ids].astype(np.uint64)


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
        mine = np.array_split(np.argsort(ids), self.world_size)[self.rank]
        return np.array_split(ids[np.sort(mine)], self.num_parts)

    def of_blocks(self, order: "Order", start_step: int = 0) -> Iterator[Ids]:
        """The samples of each block that the rank trains on: the same that `of_batch` gives it."""
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
    block_bytes: int = DEFAULT_BLOCK_BYTES

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "block_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.tail not in TAILS:
            raise InputError(f"tail is {self.tail!r}: expected one of {', '.join(TAILS)}")

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
        _, sizes, _ = self._pieces
        stop = min(self._epoch_end, len(self.selected))
        end = 0
        for pieces in self._grouped_pieces(epoch):
            first, end = end, end + int(sizes[pieces].sum())
            if end <= start or first >= stop:
                continue
            ids = self._shuffled(epoch, pieces)
            low, high = max(start, first), min(stop, end)
            yield Block(epoch=epoch, first=low, ids=ids[low - first : high - first])

    def _grouped_pieces(self, epoch: int) -> list[Ids]:
        """The epoch's pieces in random order, those of one block together."""
        starts, _, num_bytes = self._pieces
        if not len(starts):
            return []
        key = stream_key(self.seed, Purpose.SHUFFLE_SHARDS, epoch)
        order = np.argsort(numpy_bits(key, self.selected.sample_keys(starts)), kind="stable")
        block_of = _group(num_bytes[order], limit=self.block_bytes)
        return np.split(order, np.flatnonzero(np.diff(block_of)) + 1)

    def _shuffled(self, epoch: int, pieces: Ids) -> Ids:
        starts, sizes, _ = self._pieces
        ids = np.concatenate([np.arange(starts[p], starts[p] + sizes[p]) for p in pieces])
        sample_keys = self.selected.sample_keys(ids)
        key = stream_key(self.seed, Purpose.SHUFFLE_ROWS, epoch)
        return ids[np.lexsort((sample_keys, numpy_bits(key, sample_keys)))]

    @cached_property
    def _pieces(self) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
        """First id, number of samples and bytes of every piece, in index order."""
        counts = np.diff(self.selected.starts)
        piece_bytes = max(self.block_bytes // _PIECES_PER_BLOCK, 1)
        wanted = np.ceil(counts * self.selected.sample_bytes / piece_bytes).astype(np.int64)
        pieces = np.clip(wanted, 1, np.maximum(counts, 1))
        bounds = [
            np.linspace(start, start + count, number + 1).astype(np.int64)
            for start, count, number in zip(self.selected.starts[:-1], counts, pieces, strict=True)
        ]
        starts = np.concatenate([np.zeros(0, np.int64), *(bound[:-1] for bound in bounds)])
        sizes = np.concatenate([np.zeros(0, np.int64), *(np.diff(bound) for bound in bounds)])
        return starts, sizes, sizes * np.repeat(self.selected.sample_bytes, pieces)


def order_digest(selected: Selected, steps: Iterator[tuple[int, Ids]]) -> str:
    """Hash over the (step, shard_id, row) of `steps`, in order; bounded memory."""
    digest = hashlib.blake2b(digest_size=16)
    for step, ids in steps:
        digest.update(np.uint64(step).astype("<u8").tobytes())
        digest.update(selected.sample_keys(ids).astype("<u8").tobytes())
    return digest.hexdigest()


def _group(num_bytes: npt.NDArray[np.float64], *, limit: int) -> Ids:
    """Number consecutive pieces by block: a block is closed before it would pass `limit` bytes."""
    block_of = np.zeros(len(num_bytes), np.int64)
    block, total = 0, 0.0
    for place, size in enumerate(num_bytes.tolist()):
        if place and total + size > limit:
            block, total = block + 1, 0.0
        block_of[place] = block
        total += size
    return block_of
