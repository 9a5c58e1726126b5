"""Current speed of the machine: the processor seconds of a fixed piece of work.

Two processes that share the units of a core slow each other down, which also increases processor
seconds: on a busy machine the same steps took up to 1.5 times as long. Work similar to that of the
trials, done between their rounds, measures the slowdown.
"""

from statistics import fmean
from time import thread_time

_STEPS = 8


class Pace:
    """Repeated measurement; `seconds` is the mean of all measurements so far."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(48, 4, dim_feedforward=96, batch_first=True)
        self._model = torch.nn.Sequential(layer, torch.nn.Linear(48, 10))
        self._batch = torch.randn(64, 17, 48)
        self._measured: list[float] = []
        self._work()  # warm-up

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
