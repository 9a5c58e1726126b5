"""Whether the kernel predicts what a step of gradient descent does to f.

A step θ − η ∂L/∂θ on the mean loss L of the probe samples moves f by

    Δf = −η K ∂L/∂f + O(η²)

so what is left of the change that is seen shrinks quadratically with the learning rate η. Not here:
the kernel itself (`kernel.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainers.antk.gradients import Function
from trainers.antk.kernel import Floats, Kernel


@dataclass(frozen=True)
class Step:
    """One learning rate: the norms of Δf as seen, as predicted, and of their difference."""

    learning_rate: float
    seen: float
    predicted: float
    error: float


def check_steps(
    function: Function, kernel: Kernel, *, learning_rates: Sequence[float]
) -> Iterator[Step]:
    """Takes a step from the same weights for each learning rate; the weights are put back.

    Raises:
        InputError: the loss is no function of the kernel's f.
    """
    before, wanted = kernel.values, _loss_gradient(function)
    direction = _weights_gradient(function)
    for learning_rate in learning_rates:
        seen = _after(function, direction, learning_rate) - before
        predicted = -learning_rate * (kernel.total @ wanted)
        yield Step(
            learning_rate,
            seen=float(np.linalg.norm(seen)),
            predicted=float(np.linalg.norm(predicted)),
            error=float(np.linalg.norm(seen - predicted)),
        )


@torch.no_grad()
def _loss_gradient(function: Function) -> Floats:
    """∂L/∂f float64[rows], L being the mean of the samples' losses."""
    found = [function.output.loss_gradient(function.model, batch) for batch in function.batches]
    return torch.cat(found).double().cpu().numpy() / len(found)


def _weights_gradient(function: Function) -> list[torch.Tensor]:
    """∂L/∂θ of every trained parameter."""
    tensors = [parameter.tensor for parameter in function.parameters]
    sums = [torch.zeros_like(tensor) for tensor in tensors]
    for batch in function.batches:
        loss, _ = function.output.task.per_sample_loss(function.model, batch)
        found = torch.autograd.grad(loss[0], tensors, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total.add_(gradient)
    return [total / len(function.batches) for total in sums]


@torch.no_grad()
def _after(function: Function, direction: Sequence[torch.Tensor], learning_rate: float) -> Floats:
    tensors = [parameter.tensor for parameter in function.parameters]
    kept = [tensor.clone() for tensor in tensors]
    for tensor, step in zip(tensors, direction, strict=True):
        tensor.sub_(learning_rate * step)
    found = function.values().flatten().double().cpu().numpy()
    for tensor, old in zip(tensors, kept, strict=True):
        tensor.copy_(old)
    return found
