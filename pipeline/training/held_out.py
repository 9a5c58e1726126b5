"""The held-out corpus of a run, read as batches for a task's `evaluate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from catalogs import Corpus
from catalogs.shard_format import Sample
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    from trainers.task import Batch

_CHUNK_ROWS = 1024


@dataclass
class HeldOut:
    """Collated held-out batches, made as for scoring; can be iterated again.

    `seconds` is the total time spent on them, evaluation included.
    """

    task: Any
    corpus: Corpus
    settings: ScoringSettings
    seconds: float = 0.0

    def __iter__(self) -> Iterator["Batch"]:
        from trainers.scoring.evaluation import held_out_batches

        started = monotonic()
        yield from held_out_batches(self.task, self._samples(), settings=self.settings)
        self.seconds += monotonic() - started

    def _samples(self) -> Iterator[Sample]:
        for shard in self.corpus.shards:
            for first in range(0, shard.num_samples, _CHUNK_ROWS):
                rows = range(first, min(first + _CHUNK_ROWS, shard.num_samples))
                reading = self.corpus.read(shard.shard_id, rows=rows, columns=self.task.columns)
                yield from reading.samples
