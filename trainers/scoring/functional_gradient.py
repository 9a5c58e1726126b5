"""Norm of the functional gradient, ‖∂ℓ/∂f‖: the distance of a model's output from its target.

A sample's loss is the mean of ℓ_u(f_u) over its counted units u, where f_u is the model's output
for a unit (logits, a depth). As a function of f, in the inner product ⟨g, h⟩ = mean_u g_u·h_u, its
gradient is ∂ℓ_u/∂f_u, with the norm

    ‖∂ℓ/∂f‖ = √(mean_u ‖∂ℓ_u/∂f_u‖²)

For cross-entropy ∂ℓ_u/∂f_u is softmax(f_u) − onehot(y_u). With the plain norm over all units, a
long sample would weigh less than a short one; here it does not.

Source: AtteNT, arXiv 2602.20461, selects the samples with the largest ∂L/∂f.
"""

import torch

from trainers.scoring.precision import at_least_float32


def cross_entropy_norms(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return ‖softmax(f) − onehot(y)‖ float32[n] of logits [n, classes] and targets int64[n].

    Not differentiable. Allocates one more buffer as large as the logits.
    """
    # p_y − 1 is minus the sum of the others, which keeps its digits where p_y is nearly 1.
    others = at_least_float32(logits).softmax(dim=-1).scatter_(1, targets[:, None], 0.0)
    return torch.hypot(torch.linalg.vector_norm(others, dim=-1), others.sum(dim=-1))


def rms_over_units(norms: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the root mean square [batch] of `norms` [batch, units] over counted units, or 0."""
    squares = torch.where(counted, norms, 0.0).square().sum(dim=1)
    return (squares / counted.sum(dim=1).clamp(min=1)).sqrt()
