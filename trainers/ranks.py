"""Ranks of a launcher (torchrun): numbering, process group, work that only the first rank does."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

# A launcher ends all processes when one dies, so that none waits forever. Scoring, which only the
# first rank does, may take days.
_WAIT_LIMIT = timedelta(days=7)


def rank() -> int:
    """Return the rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Join the process group of all ranks; does nothing without a launcher or when joined already.

    A launcher that restarts its processes keeps their store (torch 2.13): each attempt has its own
    key prefix, or a process that starts early would contact processes that have ended.
    """
    if world_size() == 1:
        return
    from torch import distributed

    if distributed.is_initialized():
        return
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, number, size = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        store=PrefixStore(f"attempt {attempt}", store),
        rank=number,
        world_size=size,
    )


def in_turn(first: Callable[[], T], *, then: Callable[[], T] | None = None) -> T:
    """Run `first` on the first rank while the others wait, then `then` on the others; every rank
    must call it. Without `then` they run `first`, which finds its work done.
    """
    if world_size() == 1:
        return first()
    if rank() == 0:
        result = first()
        _wait_for_all()
        return result
    _wait_for_all()
    return (then or first)()


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order; every rank must call it."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    join()
    group = distributed.new_group(backend="gloo", timeout=_WAIT_LIMIT)
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value, group=group)
    distributed.destroy_process_group(group)
    return values


def _wait_for_all() -> None:
    from torch import distributed

    join()
    # A separate group: the timeout of the group that trains is that of a step.
    group = distributed.new_group(backend="gloo", timeout=_WAIT_LIMIT)
    distributed.barrier(group)
    distributed.destroy_process_group(group)
