"""Ridge regression of a value on a model's mean hidden states, to extend values from a sample.

    value(x) ≈ b + ⟨w, v(x)⟩

v are the mean hidden states of `trainers/scoring/hidden_states.py`, standardised. w minimises the
squared errors plus λ‖w‖². λ is the one of a few with the smallest leave-one-out error, which
follows from one decomposition (Allen, "The Relationship between Variable Selection and Data
Augmentation and a Method for Prediction", 1974).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from trainers.annotation import Fitted, Measured, Samples, best_of_kinds
from trainers.scoring.hidden_states import HiddenStates

Floats = npt.NDArray[np.float64]

# Penalties, as shares of the number of samples.
_PENALTIES: Final = tuple(10.0**power for power in np.arange(-5.0, 1.5, 0.5))


@dataclass(frozen=True)
class HiddenRegression:
    """Predicts a value from the mean hidden states of a model."""

    hidden: HiddenStates

    most_samples = 1 << 13

    @property
    def columns(self) -> tuple[str, ...]:
        return self.hidden.columns

    def file_digests(self) -> Mapping[str, str]:
        """Return the digests of the model and of its tokenizer or processor."""
        return self.hidden.saved.digests()

    def fit(self, samples: Samples, values: Floats) -> Fitted:
        """Fit to measured values, float64[samples], none of which is NaN.

        Raises:
            InputError: the model does not fit the samples, or none has a hidden state.
        """
        self.hidden.check({name: column[:256] for name, column in samples.items()})
        digests = self.file_digests()
        vectors, is_ok = self.hidden.vectors(samples, digests, what="the corpus")
        shift, deviations = vectors.mean(axis=0), vectors.std(axis=0)
        scale = 1.0 / np.where(deviations > 0, deviations, 1.0)
        own_values = values[is_ok]
        mean = float(own_values.mean())
        weights = _solve((vectors - shift) * scale, own_values - mean) * scale
        arrays = {"weights": weights[None], "offsets": np.array([mean - weights @ shift])}
        return Fitted(arrays, digests=digests)

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Predict float32[samples]; a sample without hidden states has its status."""
        arrays = fitted.arrays
        mapped = self.hidden.map_linear(
            samples, fitted.digests, weights=arrays["weights"], offsets=arrays["offsets"]
        )
        return Measured(best_of_kinds(mapped.values, names=(), statuses=mapped.statuses))

    def close(self) -> None:
        """Free the model."""
        self.hidden.saved.close()


def _solve(features: Floats, values: Floats) -> Floats:
    """Solve (XᵀX + λ) w = Xᵀ y with the best λ, X float64[samples, width] being the features."""
    eigenvalues, axes = np.linalg.eigh(features.T @ features)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    along = features @ axes
    projected = along.T @ values
    best: tuple[float, Floats] | None = None
    for penalty in _PENALTIES:
        shrunk = projected / (eigenvalues + penalty * len(values))
        leverage = (along**2 / (eigenvalues + penalty * len(values))).sum(axis=1)
        errors = (values - along @ shrunk) / np.maximum(1.0 - leverage, 1e-9)
        error = float((errors**2).sum())
        if best is None or error < best[0]:
            best = (error, axes @ shrunk)
    assert best is not None
    return best[1]
