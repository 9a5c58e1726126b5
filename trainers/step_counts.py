"""Numbers of an optimizer step that its ranks must agree on: its tokens, and its micro-batches."""

import torch
from torch import distributed

from trainers.task import Batch


class StepCounts:
    """Exchange of integers between the ranks that train together; every rank must call it."""

    def __init__(self, world_size: int) -> None:
        # On the CPU: the training thread would wait for the GPU to read them.
        self._group = distributed.new_group(backend="gloo") if world_size > 1 else None

    def sum(self, number: int) -> int:
        """Return the sum of the numbers of all ranks."""
        return self._reduce(number, distributed.ReduceOp.SUM)

    def equalise(self, micro_batches: list[Batch]) -> list[Batch]:
        """Return as many micro-batches as the rank with the most of them has.

        A sharded model (FSDP) is gathered in every forward pass, so that each rank must do the same
        number. Those added are the last one again, with weight 0.
        """
        largest = self._reduce(len(micro_batches), distributed.ReduceOp.MAX)
        last = micro_batches[-1]
        again = last | {"weight": torch.zeros_like(last["weight"])}
        return [*micro_batches, *[again] * (largest - len(micro_batches))]

    def _reduce(self, number: int, operation: distributed.ReduceOp.RedOpType) -> int:
        if self._group is None:
            return number
        value = torch.tensor(number)
        distributed.all_reduce(value, operation, group=self._group)
        return int(value)
