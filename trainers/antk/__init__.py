"""The attention neural tangent kernel (ANTK) of a model on a few probe samples.

    K(x, x′) = ⟨∂f(x)/∂θ, ∂f(x′)/∂θ⟩        θ: the trained parameters, group by group

| module | holds |
| --- | --- |
| `outputs.py` | the choices of f |
| `groups.py` | which parameters belong together |
| `gradients.py` | f as a function of the parameters, and its gradients |
| `kernel.py`, `sketch.py` | the kernel, exact or from sketched gradients |
| `spectrum.py` | drift and eigenvalues of kernels |
| `step.py` | whether the kernel predicts a step of training |

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
