"""Held-out samples of a run, read as batches for a task's `evaluate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.errors import SampleError
from attent_select.schema import ROW, SHARD_ID
from catalogs import Corpus
from catalogs.layout import Layout
from catalogs.losses.unusable import Example, Unusable
from catalogs.shard_format import Sample, Shard
from catalogs.tables import frames
from pipeline.config.sections import RunConfig
from trainers.settings import ScoringSettings

if TYPE_CHECKING:
    from trainers.task import Batch

_CHUNK_ROWS = 1024
_JUDGING = {"part": pl.String, SHARD_ID: pl.UInt32, ROW: pl.UInt32, "kind": pl.String}


@dataclass
class HeldOut:
    """Collated held-out batches, made as for scoring; can be iterated again.

    `rows` are the samples of a corpus, shard_id and row in order; None: all of them.
    `seconds` is the total time spent on them, evaluation included; `unusable` are the samples that
    were left out the last time.
    """

    task: Any
    corpus: Corpus
    settings: ScoringSettings
    rows: pl.DataFrame | None = None
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
        for shard, rows in self._parts():
            if number < len(rows):
                self.unusable.add(Example(shard.uri, rows[number], error.status, str(error)))
                return
            number -= len(rows)

    def _samples(self) -> Iterator[Sample]:
        for shard, rows in self._parts():
            reading = self.corpus.read(shard.shard_id, rows=rows, columns=self.task.columns)
            yield from reading.samples

    def _parts(self) -> Iterator[tuple[Shard, Sequence[int]]]:
        """Yield samples that are read together, as a shard and its rows."""
        for shard in self.corpus.shards:
            rows: Sequence[int] = range(shard.num_samples)
            if self.rows is not None:
                rows = self.rows.filter(pl.col(SHARD_ID) == shard.shard_id)[ROW].to_list()
            for first in range(0, len(rows), _CHUNK_ROWS):
                yield shard, rows[first : first + _CHUNK_ROWS]


def held_out_parts(config: RunConfig) -> dict[str, HeldOut]:
    """Return what each round is evaluated on: name → samples; the held-out corpus has no name.

    With a target, `target` are its judging examples, `target_<kind>` those of each kind of
    reference, and `corpus` random samples of the corpus.
    """
    layout, task, settings = Layout(config.run), config.task.task, config.scoring
    parts = {}
    if config.evaluation is not None:
        parts[""] = HeldOut(task, Corpus.open(layout.held_out), settings)
    if config.target is None:
        return parts
    judging, _ = frames.read_frame(layout.judging, schema=_JUDGING)
    target, corpus = Corpus.open(layout.target), Corpus.open(config.run)
    examples = judging.filter(part="target")
    parts["target"] = HeldOut(task, target, settings, examples)
    for kind in examples["kind"].drop_nulls().unique().sort():
        parts[f"target_{kind}"] = HeldOut(task, target, settings, examples.filter(kind=kind))
    parts["corpus"] = HeldOut(task, corpus, settings, judging.filter(part="corpus"))
    return parts
