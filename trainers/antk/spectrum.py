"""How far a kernel has moved, and how its eigenvalues lie. Pure numpy.

Numbers of one kernel, or of two.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def drift(kernel: Floats, before: Floats) -> float:
    """‖K_t − K_{t−1}‖_F / ‖K_t‖_F; infinite where K_t is 0 and K_{t−1} is not."""
    change, size = np.linalg.norm(kernel - before), np.linalg.norm(kernel)
    if change == 0:
        return 0.0
    return float(change / size) if size else float("inf")


def eigenvalues(kernel: Floats) -> Floats:
    """float64[rows], largest first; what arithmetic leaves below 0 is 0."""
    return np.linalg.eigvalsh(kernel)[::-1].clip(min=0.0)


def effective_rank(kernel: Floats) -> float:
    """(tr K)² / ‖K‖_F², which is (Σλ)² / Σλ²: by how many equal eigenvalues K would be like this.

    A kernel that is 0 has none.
    """
    size = np.linalg.norm(kernel)
    return float((np.trace(kernel) / size) ** 2) if size else 0.0


def sketch_error(kernel: Floats, sketch_size: int | None) -> float:
    """About ‖K̂ − K‖_F / ‖K‖_F of a kernel from sketches of r numbers: tr K / (√r ‖K‖_F), the root
    of its effective rank over r. 0 without a sketch.
    """
    return 0.0 if sketch_size is None else math.sqrt(effective_rank(kernel) / sketch_size)
