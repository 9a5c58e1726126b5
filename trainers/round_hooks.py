"""The seam between a round (`fitting/`) and the loop that does its steps
(`hf/training_loop.py`).

Plain values, so that `fit` can be imported without transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Steps:
    """A round's optimizer steps, `first` (where the stream's step 0 lies) to `last` (exclusive), of
    a plan of `total`.
    """

    first: int
    last: int
    total: int
    seed: int


@dataclass(frozen=True)
class Hooks:
    """What the loop calls: `observed` on every rank, with the losses of all ranks from that step
    on; `checkpoint` on the writing rank, with the step and a local folder; `step` after each
    update.
    """

    observed: Callable[[int, pl.DataFrame], None]
    checkpoint: Callable[[int, Path], None]
    step: Callable[[int], None]
