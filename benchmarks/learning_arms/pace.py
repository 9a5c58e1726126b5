"""How fast the machine is right now: the processor seconds of always the same work.

Two processes that share a core's units slow each other down, and so stretch processor seconds
too: on a busy machine the same steps took up to half as long again. Work like that of the
trials, done between their rounds, says by how much.
"""

from statistics import fmean
from time import thread_time

_STEPS = 8


class Pace:
    """Measures again and again; `seconds` is the mean of all measurements so far."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(48, 4, dim_feedforward=96, batch_first=True)
        self._model = torch.nn.Sequential(layer, torch.nn.Linear(48, 10))
        self._batch = torch.randn(64, 17, 48)
        self._measured: list[float] = []
        self._work()  # warm

    def measure(self) -> None:
        started = thread_time()
        self._work()
        self._measured.append(thread_time() - started)

    @property
    def seconds(self) -> float:
        return fmean(self._measured)

    def _work(self) -> None:
        for _ in range(_STEPS):
            self._model(self._batch).logsumexp(dim=-1).mean().backward()
