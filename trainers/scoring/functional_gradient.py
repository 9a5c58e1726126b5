"""How far a model's answer is from its target: ‖∂ℓ/∂f‖, the norm of the functional gradient.

Its arithmetic for cross-entropy and for means over units.

A sample's loss is the mean of ℓ_u(f_u) over its counted units u, f_u being what the model says
of a unit (logits, a depth). As a function of f, in the inner product ⟨g, h⟩ = mean_u g_u·h_u,
its gradient is ∂ℓ_u/∂f_u, of the norm

    ‖∂ℓ/∂f‖ = √(mean_u ‖∂ℓ_u/∂f_u‖²)

For cross-entropy ∂ℓ_u/∂f_u is softmax(f_u) − onehot(y_u). A long sample does not weigh less
than a short one, as it would with the plain norm over all units.

Source: the teacher of AtteNT, arXiv 2602.20461, picks the samples with the largest ∂L/∂f.
"""

import torch

from trainers.scoring.precision import at_least_float32


def cross_entropy_norms(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """‖softmax(f) − onehot(y)‖ float32[n] of logits [n, classes] and targets int64[n].

    Not to be differentiated. Takes one more buffer as large as the logits.
    """
    # What is left of p_y − 1 when the model is nearly sure: minus the sum of the others.
    others = at_least_float32(logits).softmax(dim=-1).scatter_(1, targets[:, None], 0.0)
    return torch.hypot(torch.linalg.vector_norm(others, dim=-1), others.sum(dim=-1))


def rms_over_units(norms: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Root mean square [batch] of `norms` [batch, units] where `counted`; 0 where nothing is."""
    squares = torch.where(counted, norms, 0.0).square().sum(dim=1)
    return (squares / counted.sum(dim=1).clamp(min=1)).sqrt()
