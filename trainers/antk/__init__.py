"""The attention neural tangent kernel (ANTK) of a model on a few probe samples.

    K(x, x′) = ⟨∂f(x)/∂θ, ∂f(x′)/∂θ⟩        θ: the trained parameters, group by group

What f is (`outputs.py`), which parameters belong together (`groups.py`), their gradients
(`gradients.py`), the kernel, exact or sketched (`kernel.py`, `sketch.py`), how it moves and
what its spectrum is (`spectrum.py`), and whether it predicts a step of training (`step.py`).
Not here: which samples and checkpoints, files and figures (`pipeline/antk`).

Source: AtteNT, arXiv 2602.20461, where a step of gradient descent moves f by −η K ∂L/∂f, and K
settles early in training.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainers.antk.gradients import Function
    from trainers.antk.kernel import Kernel, empirical_kernel
    from trainers.antk.outputs import OUTPUTS, Output
    from trainers.antk.sketch import Sketch
    from trainers.antk.spectrum import drift, effective_rank, eigenvalues, sketch_error
    from trainers.antk.step import Step, check_steps

__all__ = [
    "OUTPUTS",
    "Function",
    "Kernel",
    "Output",
    "Sketch",
    "Step",
    "check_steps",
    "drift",
    "effective_rank",
    "eigenvalues",
    "empirical_kernel",
    "sketch_error",
]

# Imported on first use: `spectrum`, which reads kernels at rest, needs no torch.
_MODULES = {
    "Function": "trainers.antk.gradients",
    "Kernel": "trainers.antk.kernel",
    "OUTPUTS": "trainers.antk.outputs",
    "Output": "trainers.antk.outputs",
    "Sketch": "trainers.antk.sketch",
    "Step": "trainers.antk.step",
    "check_steps": "trainers.antk.step",
    "drift": "trainers.antk.spectrum",
    "effective_rank": "trainers.antk.spectrum",
    "eigenvalues": "trainers.antk.spectrum",
    "empirical_kernel": "trainers.antk.kernel",
    "sketch_error": "trainers.antk.spectrum",
}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
