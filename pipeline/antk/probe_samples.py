"""The probe samples of a run: a fixed random few of its corpus, each a batch of its own.

Which they are, and reading them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from attent_select.errors import InputError, SampleError
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from catalogs import Corpus
from catalogs.shard_format import Sample
from pipeline.config.sections import RunConfig

if TYPE_CHECKING:
    import torch

    from trainers.task import Batch

# Samples that are looked at together.
_PIECE = 64


@dataclass(frozen=True)
class ProbeSample:
    """A sample that the model can use."""

    shard_id: int
    row: int
    batch: "Batch"


def probe_samples(
    config: RunConfig, model: "torch.nn.Module", *, num_samples: int
) -> list[ProbeSample]:
    """The same samples for every checkpoint: drawn by the run's seed, without those that cannot be
    used.

    Raises:
        InputError: the corpus has fewer, or fewer that can be used.
    """
    corpus = Corpus.open(config.run)
    if num_samples > corpus.num_samples:
        raise InputError(f"--probe {num_samples}: the corpus has only {corpus.num_samples} samples")
    found = list(islice(_usable(config, corpus, model), num_samples))
    if len(found) < num_samples:
        raise InputError(
            f"--probe {num_samples}: only {len(found)} of the corpus's {corpus.num_samples} "
            "samples can be used by the task and the model"
        )
    return found


def _usable(config: RunConfig, corpus: Corpus, model: "torch.nn.Module") -> Iterator[ProbeSample]:
    import torch

    task, device = config.task.task, next(model.parameters()).device
    for shard_id, row, sample in _read(corpus, config.seed, columns=task.columns):
        try:
            batch = task.collate([task.prepare(sample, generator=None)])
        except SampleError:
            continue
        with torch.inference_mode():
            on_device = {name: value.to(device) for name, value in batch.items()}
            _, num_units = task.per_sample_loss(model.eval(), on_device)
        if num_units[0]:
            yield ProbeSample(shard_id, row, batch)


def _read(
    corpus: Corpus, seed: int, *, columns: Sequence[str]
) -> Iterator[tuple[int, int, Sample]]:
    """Samples in random order; those of a piece that share a shard are read together."""
    ends = np.cumsum([shard.num_samples for shard in corpus.shards])
    places = _places(corpus.num_samples, seed)
    while piece := list(islice(places, _PIECE)):
        shards = np.searchsorted(ends, piece, side="right")
        rows = np.array(piece) - np.concatenate([[0], ends])[shards]
        found: dict[tuple[int, int], Sample] = {}
        for shard_id in np.unique(shards).tolist():
            wanted = np.sort(rows[shards == shard_id]).tolist()
            reading = corpus.read(shard_id, rows=wanted, columns=columns)
            found |= {(shard_id, r): s for r, s in zip(wanted, reading.samples, strict=True)}
        for key in zip(shards.tolist(), rows.tolist(), strict=True):
            yield *key, found[key]


def _places(num_samples: int, seed: int) -> Iterator[int]:
    """0 to num_samples - 1, each once, in an order that depends on the seed alone."""
    key, seen, counter = stream_key(seed, Purpose.PROBE), set[int](), 0
    while len(seen) < num_samples:
        counters = np.arange(counter, counter + num_samples.bit_length() * _PIECE, dtype=np.uint64)
        counter += len(counters)
        for place in (numpy_bits(key, counters) % np.uint64(num_samples)).tolist():
            if place not in seen:
                seen.add(place)
                yield place
