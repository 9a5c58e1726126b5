"""Random samples of a corpus: the same ones for any number of workers."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

import numpy as np

from attent_select.schema import numpy_sample_key
from attent_select.stats.randomness import Purpose, numpy_bits, stream_key
from catalogs import Corpus
from catalogs.concurrency import ordered_map
from trainers.annotation import Samples

# Rows that are read together cost about as much as one of them.
_BLOCK_ROWS: Final = 16
_BATCH_ROWS: Final = 1024


def pool_sample(
    corpus: Corpus, num_rows: int, *, columns: Sequence[str], seed: int
) -> Iterator[Samples]:
    """Yield batches of about `num_rows` random samples: blocks of 16 consecutive rows, in order.

    Drawn without replacement by the counter-based generator; all rows of a smaller corpus.
    """

    def read(rows: tuple[int, list[int]]) -> Samples:
        shard_id, numbers = rows
        return corpus.read(shard_id, rows=numbers, columns=columns).values

    yield from ordered_map(read, _batches(corpus, num_rows, seed=seed), num_threads=4)


def _batches(corpus: Corpus, num_rows: int, *, seed: int) -> Iterator[tuple[int, list[int]]]:
    """Yield a shard and some of its rows."""
    blocks = _blocks(corpus, num_rows, seed=seed)
    for shard_id, group in groupby(blocks, key=lambda block: block[0]):
        size = corpus.shards[shard_id].num_samples
        rows = [row for _, first in group for row in range(first, min(first + _BLOCK_ROWS, size))]
        for start in range(0, len(rows), _BATCH_ROWS):
            yield shard_id, rows[start : start + _BATCH_ROWS]


def _blocks(corpus: Corpus, num_rows: int, *, seed: int) -> list[tuple[int, int]]:
    """Return shard and first row of the drawn blocks, in order."""
    counts = [-(-shard.num_samples // _BLOCK_ROWS) for shard in corpus.shards]
    shards = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    firsts = np.concatenate([np.arange(n, dtype=np.uint32) * _BLOCK_ROWS for n in counts])
    num_blocks = -(-num_rows // _BLOCK_ROWS)
    if num_blocks < len(firsts):
        draws = numpy_bits(stream_key(seed, Purpose.ANNOTATE), numpy_sample_key(shards, firsts))
        drawn = np.sort(np.argpartition(draws, num_blocks)[:num_blocks])
        shards, firsts = shards[drawn], firsts[drawn]
    return list(zip(shards.tolist(), firsts.tolist(), strict=True))
