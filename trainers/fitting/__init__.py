"""Train one round with `fit`, from one published checkpoint to the next."""

from trainers.fitting.result import FitResult
from trainers.fitting.training_round import fit

__all__ = ["FitResult", "fit"]
