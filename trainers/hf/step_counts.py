"""Numbers of an optimizer step that its ranks must agree on: how many micro-batches it has."""

import torch
from torch import distributed

from trainers.task import Batch


class StepCounts:
    """Exchange of a few integers per step between the ranks that train together."""

    def __init__(self, world_size: int) -> None:
        # On the CPU: the training thread would wait for the GPU to read them.
        self._group = distributed.new_group(backend="gloo") if world_size > 1 else None
        self._world_size = world_size

    def equalise(self, micro_batches: list[Batch]) -> list[Batch]:
        """Return as many micro-batches as the rank with the most of them has.

        A sharded model (FSDP) is gathered in every forward pass, so that each rank must do the same
        number. Those added are the last one again, with weight 0.
        """
        missing = self._largest(len(micro_batches)) - len(micro_batches)
        last = micro_batches[-1]
        again = last | {"weight": torch.zeros_like(last["weight"])}
        return [*micro_batches, *[again] * missing]

    def _largest(self, number: int) -> int:
        if self._group is None:
            return number
        largest = torch.tensor(number)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
        return int(largest)
