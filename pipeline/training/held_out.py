"""The held-out corpus of a run: ingested beside it, read as batches for a task's `evaluate`.

Where it is and reading it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from catalogs import Corpus
from catalogs.shard_format import Sample
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    from trainers.task import Batch

_ROWS_AT_A_TIME = 1024


@dataclass
class HeldOut:
    """Collated held-out batches, made as for scoring, as often as they are asked for.

    `seconds` is the time they took in all.
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
            for first in range(0, shard.num_samples, _ROWS_AT_A_TIME):
                rows = range(first, min(first + _ROWS_AT_A_TIME, shard.num_samples))
                reading = self.corpus.read(shard.shard_id, rows=rows, columns=self.task.columns)
                yield from reading.samples
