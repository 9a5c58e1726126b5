"""The share of one rank in every global batch, and its micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attent_select.errors import InputError
from trainers import ranks
from trainers.streaming.index_rows import Ids
from trainers.streaming.order import Order


@dataclass(frozen=True)
class RankShare:
    """What one of `world_size` ranks takes of every global batch.

    Attributes:
        rank: of this process, 0 to `world_size` - 1.
        world_size: number of ranks.
        micro_batch_size: most samples of one forward pass; default: the rank's whole share.
    """

    rank: int = 0
    world_size: int = 1
    micro_batch_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} of {self.world_size}: expected 0 <= rank < world_size"
            )
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise InputError(f"micro_batch_size is {self.micro_batch_size}: expected at least 1")

    @classmethod
    def of_process(cls, *, micro_batch_size: int | None = None) -> "RankShare":
        """Return the share of this process, as its launcher (torchrun) numbers it."""
        return cls(ranks.rank(), ranks.world_size(), micro_batch_size)

    def num_micro_batches(self, batch_size: int) -> int:
        """Return the micro-batches of a step: the same number on every rank and in every step."""
        size = -(-batch_size // self.world_size)
        return -(-size // min(self.micro_batch_size or size, size))

    def of_batch(self, ids: Ids, *, batch_size: int) -> list[Ids]:
        """Return the rank's micro-batches of a global batch; of a short batch some may be empty.

        Each rank takes neighbours in the index, so that few ranks read the same row group. Within
        the share, the order of the batch stays.
        """
        if self.world_size > 1:
            positions = np.array_split(np.argsort(ids), self.world_size)[self.rank]
            ids = ids[np.sort(positions)]
        return np.array_split(ids, self.num_micro_batches(batch_size))

    def num_samples(self, order: Order) -> int:
        """Count the samples of the rank in all epochs of `order`."""
        batches = (self.of_batch(ids, batch_size=order.batch_size) for _, ids in order.steps())
        return sum(len(micro_batch) for batch in batches for micro_batch in batch)

    def of_blocks(self, order: Order, start_step: int = 0) -> Iterator[Ids]:
        """Yield the samples of each block that the rank trains on: those that `of_batch` gives."""
        if self.world_size == 1:
            yield from (block.ids for block in order.blocks(start_step))
            return
        steps = order.steps(start_step)
        taken = np.zeros(0, np.int64)
        # Samples by which the steps are ahead of the blocks: a batch may lie in several blocks.
        num_ahead = 0
        for block in order.blocks(start_step):
            shares = [taken]
            num_ahead -= len(block.ids)
            while num_ahead < 0:
                _, ids = next(steps)
                num_ahead += len(ids)
                shares += self.of_batch(ids, batch_size=order.batch_size)
            taken = np.concatenate(shares)
            is_in_block = np.isin(taken, block.ids)
            yield taken[is_in_block]
            taken = taken[~is_in_block]
