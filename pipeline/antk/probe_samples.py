"""Probe samples of a run: a fixed random subset of its corpus, one sample per batch."""

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

# Samples that are read together.
_CHUNK = 64


@dataclass(frozen=True)
class ProbeSample:
    """A sample that the task and the model can use."""

    shard_id: int
    row: int
    batch: "Batch"


def probe_samples(
    config: RunConfig, model: "torch.nn.Module", *, num_samples: int
) -> list[ProbeSample]:
    """Draw the probe samples by the run's seed: the same ones for every checkpoint.

    Raises:
        InputError: the corpus has fewer samples, or fewer usable ones.
    """
    corpus = Corpus.open(config.run)
    if num_samples > corpus.num_samples:
        raise InputError(f"--probe {num_samples}: the corpus has only {corpus.num_samples} samples")
    probe = list(islice(_usable_samples(config, corpus, model), num_samples))
    if len(probe) < num_samples:
        raise InputError(
            f"--probe {num_samples}: the task and the model can use only {len(probe)} of the "
            f"{corpus.num_samples} samples in the corpus"
        )
    return probe


def _usable_samples(
    config: RunConfig, corpus: Corpus, model: "torch.nn.Module"
) -> Iterator[ProbeSample]:
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
    """Yield samples in random order; those of a chunk that share a shard are read together."""
    ends = np.cumsum([shard.num_samples for shard in corpus.shards])
    numbers = _shuffle_numbers(corpus.num_samples, seed)
    while chunk := list(islice(numbers, _CHUNK)):
        shards = np.searchsorted(ends, chunk, side="right")
        rows = np.array(chunk) - np.concatenate([[0], ends])[shards]
        samples: dict[tuple[int, int], Sample] = {}
        for shard_id in np.unique(shards).tolist():
            chosen = np.sort(rows[shards == shard_id]).tolist()
            reading = corpus.read(shard_id, rows=chosen, columns=columns)
            samples |= {(shard_id, r): s for r, s in zip(chosen, reading.samples, strict=True)}
        for key in zip(shards.tolist(), rows.tolist(), strict=True):
            yield *key, samples[key]


def _shuffle_numbers(num_samples: int, seed: int) -> Iterator[int]:
    """Yield 0 to num_samples - 1, each once, in an order that depends only on the seed."""
    key, seen, counter = stream_key(seed, Purpose.PROBE), set[int](), 0
    while len(seen) < num_samples:
        counters = np.arange(counter, counter + num_samples.bit_length() * _CHUNK, dtype=np.uint64)
        counter += len(counters)
        for number in (numpy_bits(key, counters) % np.uint64(num_samples)).tolist():
            if number not in seen:
                seen.add(number)
                yield number
