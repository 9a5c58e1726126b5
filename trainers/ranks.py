"""Ranks of a launcher (torchrun): numbering, process group, work that only the first rank does."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from attent_select.errors import InputError
from trainers.settings import TrainingSettings

T = TypeVar("T")

# Arguments of the Trainer that shard a model; each saves the optimizer's state in another form.
SHARDINGS = ("fsdp", "deepspeed")

# A launcher ends all processes when one dies, so that none waits forever. Scoring, which only the
# first rank does, may take days.
_WAIT_LIMIT = timedelta(days=7)


def check_environment() -> None:
    """Check the variables of a launcher.

    Raises:
        InputError: one is missing or wrong: it may be left from another command.
    """
    known = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    values = ", ".join(f"{name}={value}" for name, value in known.items())
    advice = "unset them, or start the command with torchrun"
    if not all(value.isdecimal() for value in known.values()) or len(known) == 1:
        raise InputError(
            f"the environment has {values}: expected numbers for both RANK and WORLD_SIZE; {advice}"
        )
    if known and rank() >= world_size():
        raise InputError(f"the environment has {values}: expected a rank below the size; {advice}")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if world_size() > 1 and missing:
        raise InputError(f"the environment has {values}, but not {', '.join(missing)}; {advice}")


def rank() -> int:
    """Return the rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_sharding(settings: TrainingSettings) -> None:
    """Check that there are processes over which the arguments can shard a model.

    Raises:
        InputError: this process is the only one.
    """
    for name in SHARDINGS:
        if settings.arguments.get(name) and world_size() == 1:
            raise InputError(
                f"training.arguments.{name} shards a model over processes, and this is the only "
                "one: start several (torchrun), or remove it"
            )


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
