"""A kind of annotation that stops at a gate, or ends its process, for tests of kills."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import polars as pl

from trainers.annotation import FitContext, Fitted, Measured, Samples

POISON = "poison"


def until(condition: Callable[[], bool], *, seconds: float = 600) -> None:
    """Wait for a condition."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "the condition never held"
        threading.Event().wait(0.01)


@dataclass(frozen=True)
class Gated:
    """The number of characters of `text`.

    Attributes:
        folder: gets a line in `measured` for each batch; shards after the first two wait until it
            has a file `open`.
    """

    folder: str

    needs_target = False
    further_columns = ()
    columns = ("text",)

    def fit(self, context: FitContext) -> Fitted:
        return Fitted()

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        texts: list[str] = samples["text"]
        if POISON in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        gate = Path(self.folder, "open")
        while not gate.exists() and int(texts[0].split()[0]) > 1:
            threading.Event().wait(0.01)
        with Path(self.folder, "measured").open("a") as file:
            file.write(f"{texts[0]}\n")
        values = pl.Series([len(text) for text in texts], dtype=pl.Int64)
        return Measured(pl.DataFrame({"value": values, "status": ["ok"] * len(texts)}))
