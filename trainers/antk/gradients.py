"""f on the probe samples as a function of the trained parameters, and its gradients.

One sample at a time through the model and back. Reverse mode by `torch.autograd`, for several
outputs vectorised by `vmap`, and not `torch.func.vjp`: that refuses the recomputed chunks by
which language models do without the whole vocabulary × sequence matrix, and takes twice as long
for a sample.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attent_select.errors import InputError
from trainers.antk.groups import GROUPS, group_of
from trainers.antk.outputs import Output
from trainers.scoring.scorer import best_device
from trainers.task import Batch

KERNEL_DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Parameter:
    """A trained parameter; `tensor` is the model's own."""

    name: str
    group: str
    tensor: torch.Tensor


class Function:
    """f on probe samples, each a batch of its own. The model is put into eval mode and on the best
    device; with weights of another dtype than `dtype` it is copied.

    Raises:
        InputError: the model cannot be computed in `dtype`, or has nothing to train.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        batches: Sequence[Batch],
        output: Output,
        *,
        dtype: str = "float32",
    ) -> None:
        self.model, self.output = _in_dtype(model, dtype).to(best_device()).eval(), output
        found = [
            Parameter(name, group_of(name), tensor)
            for name, tensor in self.model.named_parameters()
            if tensor.requires_grad
        ]
        self.parameters = sorted(found, key=lambda each: GROUPS.index(each.group))
        if not self.parameters:
            raise InputError("the model has no trained parameter: its kernel is 0")
        kind = self.parameters[0].tensor
        self.batches = [
            {
                name: value.to(kind.device, kind.dtype if value.is_floating_point() else None)
                for name, value in batch.items()
            }
            for batch in batches
        ]

    @property
    def groups(self) -> list[str]:
        """Of the parameters, in order."""
        return list(dict.fromkeys(each.group for each in self.parameters))

    @property
    def num_parameters(self) -> int:
        return sum(each.tensor.numel() for each in self.parameters)

    @torch.no_grad()
    def values(self) -> torch.Tensor:
        """float[samples, components]."""
        return torch.stack([self.output.values(self.model, batch) for batch in self.batches])

    def gradients(self, parameters: Sequence[Parameter]) -> Iterator[list[torch.Tensor]]:
        """For each sample ∂f/∂θ float[components, numel] of each of `parameters`."""
        tensors = [each.tensor for each in parameters]
        with torch.enable_grad():
            for batch in self.batches:
                values = self.output.values(self.model, batch)
                yield [
                    values.new_zeros(len(values), tensor.numel())
                    if found is None  # a layer that the architecture has and does not use
                    else found.reshape(len(values), -1)
                    for found, tensor in zip(_rows(values, tensors), tensors, strict=True)
                ]


def _rows(values: torch.Tensor, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor | None]:
    """∂values/∂tensor [components, *shape] of each."""
    if len(values) == 1:
        return torch.autograd.grad(values[0], tensors, allow_unused=True)
    each = torch.eye(len(values), dtype=values.dtype, device=values.device)
    return torch.autograd.grad(
        values, tensors, grad_outputs=each, is_grads_batched=True, allow_unused=True
    )


def _in_dtype(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    if dtype not in KERNEL_DTYPES:
        raise InputError(f"--dtype {dtype}: expected one of {', '.join(KERNEL_DTYPES)}")
    inner: Any = model
    quantised = any(getattr(inner, f"is_loaded_in_{bits}bit", False) for bits in (4, 8))
    if quantised and dtype == "float64":
        raise InputError("--dtype float64: weights of 4 or 8 bits have no float64 form")
    wanted = getattr(torch, dtype)
    if quantised or all(p.dtype == wanted for p in model.parameters()):
        return model
    # A copy, because adapters share their base with those that are loaded later.
    return copy.deepcopy(model).to(wanted)
