"""State of ZeRO's optimizer at rest: that of all ranks in one file, tensors and numbers only.

DeepSpeed would write a pickle per rank, which can run code when it is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from transformers import trainer as hf_trainer

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"
_LOAD: Final = "deepspeed_load_checkpoint"
# Of the state of a rank; the others are objects, which only float16 needs.
_KEYS: Final = (
    "base_optimizer_state",
    "single_partition_of_fp32_groups",
    "group_paddings",
    "param_alignment_paddings",
    "partition_count",
    "ds_version",
)


@contextmanager
def without_pickles() -> Iterator[None]:
    """Keep the Trainer from loading DeepSpeed's own files; `load_zero` loads the state instead."""
    functions = vars(hf_trainer)
    original = functions[_LOAD]
    functions[_LOAD] = lambda *_, **__: None
    try:
        yield
    finally:
        functions[_LOAD] = original


def save_zero(engine: Any, scheduler: Any, folder: Path) -> None:
    """Write the state of all ranks on the first one. Every rank calls it."""
    complete = engine.optimizer.state_dict()
    state = _on_cpu({name: complete[name] for name in _KEYS if name in complete})
    is_first = torch.distributed.get_rank() == 0
    states = [None] * torch.distributed.get_world_size() if is_first else None
    torch.distributed.gather_object(state, states)
    if is_first:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"ranks": states}, folder / _OPTIMIZER)
        torch.save(scheduler.state_dict(), folder / _SCHEDULER)


def load_zero(engine: Any, scheduler: Any, folder: Path) -> None:
    """Restore the state that `save_zero` wrote, with as many ranks."""
    states = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)["ranks"]
    engine.optimizer.load_state_dict(
        states, load_optimizer_states=True, load_from_fp32_weights=True
    )
    scheduler.load_state_dict(torch.load(folder / _SCHEDULER, weights_only=True))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_on_cpu(entry) for entry in value]
    return value
