"""The share of one rank in every global batch, and its micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from attent_select.errors import InputError
from trainers import ranks
from trainers.streaming.index_rows import Ids
from trainers.streaming.order import Order

if TYPE_CHECKING:
    from trainers.task import Task

# Units (tokens) of a micro-batch for tasks with samples of different length.
DEFAULT_MICRO_BATCH_UNITS = 4096


@dataclass(frozen=True)
class RankShare:
    """What one of `world_size` ranks takes of every global batch.

    Attributes:
        rank: of this process, 0 to `world_size` - 1.
        world_size: number of ranks.
        micro_batch_size: most samples of one forward pass; default: the rank's whole share.
        micro_batch_units: most units (tokens) of one forward pass, padding included, instead: then
            the number of micro-batches differs from step to step and from rank to rank.
        in_pairs: samples 0 and 1, 2 and 3, … of a global batch stay together, so that a task can
            mix them.
    """

    rank: int = 0
    world_size: int = 1
    micro_batch_size: int | None = None
    micro_batch_units: int | None = None
    in_pairs: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} of {self.world_size}: expected 0 <= rank < world_size"
            )
        for name in ("micro_batch_size", "micro_batch_units"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}: expected at least 1")
        if self.micro_batch_size is not None and self.micro_batch_units is not None:
            raise InputError("micro_batch_size and micro_batch_units: expected only one of them")
        if self.in_pairs and self.micro_batch_size == 1:
            raise InputError(
                "micro_batch_size is 1, and the task mixes samples in pairs: expected at least 2"
            )

    @classmethod
    def of_process(
        cls, *, micro_batch_size: int | None = None, micro_batch_units: int | None = None
    ) -> "RankShare":
        """Return the share of this process, as its launcher (torchrun) numbers it."""
        return cls(ranks.rank(), ranks.world_size(), micro_batch_size, micro_batch_units)

    def for_task(self, task: "Task | None") -> "RankShare":
        """Return the share of a task that mixes samples, or with the default of one whose samples
        differ in length.
        """
        if task is None:
            return self
        from trainers.task import HasCountedUnits, mixes  # imports torch, which plans do without

        if mixes(task):
            return replace(self, in_pairs=True)
        has_limit = self.micro_batch_size is not None or self.micro_batch_units is not None
        if has_limit or not isinstance(task, HasCountedUnits):
            return self
        return replace(self, micro_batch_units=DEFAULT_MICRO_BATCH_UNITS)

    def num_micro_batches(self, batch_size: int) -> int:
        """Return the parts that `of_batch` makes: the same number on every rank and in every step.

        With `micro_batch_units` it is one, which is divided once its samples are prepared.
        """
        width = 1 + self.in_pairs
        size = -(-batch_size // width // self.world_size)
        most = max((self.micro_batch_size or batch_size) // width, 1)
        return -(-size // min(most, size))

    def of_batch(self, ids: Ids, *, batch_size: int) -> list[Ids]:
        """Return the rank's micro-batches of a global batch; of a short batch some may be empty.

        Each rank takes neighbours in the index, so that few ranks read the same row group. Within
        the share, the order of the batch stays. In pairs, the first of each pair decides.
        """
        width = 1 + self.in_pairs
        numbers = np.arange(-(-len(ids) // width))
        if self.world_size > 1:
            chosen = np.array_split(np.argsort(ids[::width]), self.world_size)[self.rank]
            numbers = np.sort(chosen)
        parts = np.array_split(numbers, self.num_micro_batches(batch_size))
        if width == 1:
            return [ids[part] for part in parts]
        pairs = [(part[:, None] * width + np.arange(width)).ravel() for part in parts]
        return [ids[part[part < len(ids)]] for part in pairs]

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
