"""Drift, eigenvalues and effective rank of kernels, in numpy alone."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def drift(kernel: Floats, before: Floats) -> float:
    """Return ‖K_t − K_{t−1}‖_F / ‖K_t‖_F; infinite where K_t is 0 and K_{t−1} is not."""
    change, size = np.linalg.norm(kernel - before), np.linalg.norm(kernel)
    if change == 0:
        return 0.0
    return float(change / size) if size else float("inf")


def eigenvalues(kernel: Floats) -> Floats:
    """Return the eigenvalues float64[rows], largest first; rounding errors below 0 become 0."""
    return np.linalg.eigvalsh(kernel)[::-1].clip(min=0.0)


def effective_rank(kernel: Floats) -> float:
    """Return (tr K)² / ‖K‖_F² = (Σλ)² / Σλ²: the number of equal eigenvalues with this ratio.

    It is 0 for a kernel of zeros.
    """
    size = np.linalg.norm(kernel)
    return float((np.trace(kernel) / size) ** 2) if size else 0.0


def sketch_error(kernel: Floats, sketch_size: int | None) -> float:
    """Estimate ‖K̂ − K‖_F / ‖K‖_F of a kernel from sketches of r numbers; 0 without a sketch.

    The estimate is tr K / (√r ‖K‖_F), the root of the effective rank over r.
    """
    return 0.0 if sketch_size is None else math.sqrt(effective_rank(kernel) / sketch_size)
