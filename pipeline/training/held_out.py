"""The held-out corpus of a run, read as batches for a task's `evaluate`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from attent_select.errors import SampleError
from catalogs import Corpus
from catalogs.losses.unusable import Example, Unusable
from catalogs.shard_format import Sample
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    from trainers.task import Batch

_CHUNK_ROWS = 1024


@dataclass
class HeldOut:
    """Collated held-out batches, made as for scoring; can be iterated again.

    `seconds` is the total time spent on them, evaluation included; `unusable` are the samples that
    were left out the last time.
    """

    task: Any
    corpus: Corpus
    settings: ScoringSettings
    seconds: float = 0.0
    unusable: Unusable = field(default_factory=Unusable)

    def __iter__(self) -> Iterator["Batch"]:
        from trainers.scoring.evaluation import held_out_batches

        started = monotonic()
        self.unusable = Unusable()
        yield from held_out_batches(
            self.task, self._samples(), settings=self.settings, on_unusable=self._leave_out
        )
        self.seconds += monotonic() - started

    def _leave_out(self, number: int, error: SampleError) -> None:
        for shard in self.corpus.shards:
            if number < shard.num_samples:
                self.unusable.add(Example(shard.uri, number, error.status, str(error)))
                return
            number -= shard.num_samples

    def _samples(self) -> Iterator[Sample]:
        for shard in self.corpus.shards:
            for first in range(0, shard.num_samples, _CHUNK_ROWS):
                rows = range(first, min(first + _CHUNK_ROWS, shard.num_samples))
                reading = self.corpus.read(shard.shard_id, rows=rows, columns=self.task.columns)
                yield from reading.samples
