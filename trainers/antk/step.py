"""Check that the kernel predicts how a step of gradient descent changes f.

A step θ − η ∂L/∂θ on the mean loss L of the probe samples changes f by

    Δf = −η K ∂L/∂f + O(η²)

so the difference between measured and predicted change shrinks quadratically with the learning
rate η.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainers.antk.gradients import Function
from trainers.antk.kernel import Floats, Kernel


@dataclass(frozen=True)
class Step:
    """One learning rate: the norms of Δf as measured, as predicted, and of their difference."""

    learning_rate: float
    seen: float
    predicted: float
    error: float


def check_steps(
    function: Function, kernel: Kernel, *, learning_rates: Sequence[float]
) -> Iterator[Step]:
    """Take a step from the same weights for each learning rate, and restore the weights.

    Raises:
        InputError: the loss does not depend on the kernel's f alone.
    """
    before, loss_gradient = kernel.values, _loss_gradient(function)
    direction = _weights_gradient(function)
    for learning_rate in learning_rates:
        seen = _values_after_step(function, direction, learning_rate) - before
        predicted = -learning_rate * (kernel.total @ loss_gradient)
        yield Step(
            learning_rate,
            seen=float(np.linalg.norm(seen)),
            predicted=float(np.linalg.norm(predicted)),
            error=float(np.linalg.norm(seen - predicted)),
        )


@torch.no_grad()
def _loss_gradient(function: Function) -> Floats:
    """Return ∂L/∂f float64[rows], L being the mean of the samples' losses."""
    gradients = [function.output.loss_gradient(function.model, batch) for batch in function.batches]
    return torch.cat(gradients).double().cpu().numpy() / len(gradients)


def _weights_gradient(function: Function) -> list[torch.Tensor]:
    """Return ∂L/∂θ of every trained parameter."""
    tensors = [parameter.tensor for parameter in function.parameters]
    sums = [torch.zeros_like(tensor) for tensor in tensors]
    for batch in function.batches:
        loss, _ = function.output.task.per_sample_loss(function.model, batch)
        gradients = torch.autograd.grad(loss[0], tensors, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient)
    return [total / len(function.batches) for total in sums]


@torch.no_grad()
def _values_after_step(
    function: Function, direction: Sequence[torch.Tensor], learning_rate: float
) -> Floats:
    tensors = [parameter.tensor for parameter in function.parameters]
    originals = [tensor.clone() for tensor in tensors]
    for tensor, step in zip(tensors, direction, strict=True):
        tensor.sub_(learning_rate * step)
    values = function.values().flatten().double().cpu().numpy()
    for tensor, original in zip(tensors, originals, strict=True):
        tensor.copy_(original)
    return values
