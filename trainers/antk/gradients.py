"""f on the probe samples as a function of the trained parameters, and its gradients.

Samples go through the model one at a time, in reverse mode by `torch.autograd`, vectorised over
several outputs. `torch.func.vjp` takes twice as long and does not support the recomputed chunks by
which language models avoid the vocabulary × sequence matrix.
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
    """Trained parameter; `tensor` is the model's own."""

    name: str
    group: str
    tensor: torch.Tensor


class Function:
    """f on probe samples, each in a separate batch.

    The model is put into eval mode and on the best device; it is copied if its weights have another
    dtype than `dtype`.

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
        parameters = [
            Parameter(name, group_of(name), tensor)
            for name, tensor in self.model.named_parameters()
            if tensor.requires_grad
        ]
        self.parameters = sorted(parameters, key=lambda parameter: GROUPS.index(parameter.group))
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
        """Groups of the parameters, in order."""
        return list(dict.fromkeys(parameter.group for parameter in self.parameters))

    @property
    def num_parameters(self) -> int:
        return sum(parameter.tensor.numel() for parameter in self.parameters)

    @torch.no_grad()
    def values(self) -> torch.Tensor:
        """Return f, float[samples, components]."""
        return torch.stack([self.output.values(self.model, batch) for batch in self.batches])

    def gradients(self, parameters: Sequence[Parameter]) -> Iterator[list[torch.Tensor]]:
        """Yield, for each sample, ∂f/∂θ float[components, numel] of each of `parameters`."""
        tensors = [parameter.tensor for parameter in parameters]
        with torch.enable_grad():
            for batch in self.batches:
                values = self.output.values(self.model, batch)
                yield [
                    values.new_zeros(len(values), tensor.numel())
                    if gradient is None  # a layer that the architecture has but does not use
                    else gradient.reshape(len(values), -1)
                    for gradient, tensor in zip(_jacobian(values, tensors), tensors, strict=True)
                ]


def _jacobian(
    values: torch.Tensor, tensors: Sequence[torch.Tensor]
) -> Sequence[torch.Tensor | None]:
    """Return ∂values/∂tensor [components, *shape] for each tensor."""
    if len(values) == 1:
        return torch.autograd.grad(values[0], tensors, allow_unused=True)
    identity = torch.eye(len(values), dtype=values.dtype, device=values.device)
    return torch.autograd.grad(
        values, tensors, grad_outputs=identity, is_grads_batched=True, allow_unused=True
    )


def _in_dtype(model: torch.nn.Module, dtype: str) -> torch.nn.Module:
    if dtype not in KERNEL_DTYPES:
        raise InputError(f"--dtype {dtype}: expected one of {', '.join(KERNEL_DTYPES)}")
    inner: Any = model
    quantised = any(getattr(inner, f"is_loaded_in_{bits}bit", False) for bits in (4, 8))
    if quantised and dtype == "float64":
        raise InputError("--dtype float64: weights of 4 or 8 bits cannot be converted to float64")
    torch_dtype = getattr(torch, dtype)
    if quantised or all(weight.dtype == torch_dtype for weight in model.parameters()):
        return model
    # A copy, because adapters share their base with those that are loaded later.
    return copy.deepcopy(model).to(torch_dtype)
