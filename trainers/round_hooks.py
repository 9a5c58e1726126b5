"""Interface between a round (`fitting/`) and its training loop (`hf/training_loop.py`).

Free of transformers, so that `fit` can be imported without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of a round: `first` (step 0 of the stream) to `last` (exclusive).

    The learning rate moves between two positions of its schedule, `on_schedule`, out of `total`
    positions of the run. `seed` is the seed of dropout and of a new model.
    """

    first: int
    last: int
    total: int
    seed: int
    on_schedule: tuple[int, int]

    def position(self, step: int) -> float:
        """Return the position of a step on the learning rate's schedule."""
        start, end = self.on_schedule
        if (start, end) == (self.first, self.last):
            return step
        return start + (step - self.first) * (end - start) / (self.last - self.first)


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the training loop.

    Attributes:
        observed: called on every rank with a first step and the losses of all ranks from it.
        checkpoint: called on the writing rank with the step and a local folder.
        learning_rate: called before each optimizer step with its number, from 0, and its rate.
        step: called after each optimizer step with the number of steps done.
    """

    observed: Callable[[int, pl.DataFrame], None]
    checkpoint: Callable[[int, Path], None]
    learning_rate: Callable[[int, float], None]
    step: Callable[[int], None]
