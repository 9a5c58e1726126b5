"""Which of a launcher's processes (torchrun) this is, and work that the first of them does alone.

The launcher's environment, and waiting for the first rank.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

# A launcher ends every process when one dies, so that nobody waits for a dead one. Scoring, which
# the first one does alone, may take days.
_PATIENCE = timedelta(days=7)


def rank() -> int:
    """Of this process; 0 where there is no launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes; does nothing where there is no launcher, or they have met.

    A launcher that starts its processes again keeps what they told each other (torch 2.13): each
    attempt has keys of its own here, or one that is early would call those that are gone.
    """
    if world_size() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        return
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, number, size = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    torch.distributed.init_process_group(
        store=PrefixStore(f"attempt {attempt}", store),
        rank=number,
        world_size=size,
    )


def in_turn(first: Callable[[], T], *, then: Callable[[], T] | None = None) -> T:
    """What `first` returns, done by the first rank alone while the others wait; these do `then`
    afterwards (None: the same, which finds done what the first one did).

    Every rank must call it.
    """
    if world_size() == 1:
        return first()
    if rank() == 0:
        result = first()
        _wait_for_all()
        return result
    _wait_for_all()
    return (then or first)()


def _wait_for_all() -> None:
    import torch

    join()
    # Of its own, as the patience of the one that trains is that of a step.
    group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    torch.distributed.barrier(group)
    torch.distributed.destroy_process_group(group)
