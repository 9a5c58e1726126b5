"""The rows of an index in memory, small enough for 10^8 of them: two bytes a row, and its weight.

Compact arrays and looking things up in them. A sample is named by its `id`: its position in the
index, in (shard, row) order.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalogs.corpus import Corpus
from catalogs.index import IndexFile

Ids = npt.NDArray[np.int64]
# shard_id u32[n], row u32[n] and weight f32[n] of consecutive rows of an index.
IndexBatch = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]

# What a sample costs in memory beside its bytes: Python's objects for it.
SAMPLE_OVERHEAD_BYTES = 512
# The lower bits of a row are kept for each, the others once for each run of equal ones.
_LOW_BITS = 16
_MAX_CODES = 256


@dataclass(frozen=True, eq=False)
class Weights:
    """float32 weights: a code of one byte each where at most 256 of them differ."""

    values: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8] | None = None

    def of(self, ids: Ids) -> npt.NDArray[np.float32]:
        """float32[ids]."""
        return self.values[ids if self.codes is None else self.codes[ids]]


@dataclass(frozen=True, eq=False)
class Selected:
    """The rows of an index.

    `shard_ids[k]` has the ids `starts[k]` to `starts[k + 1]`; `sample_bytes[k]` is about the
    mean size of that shard's samples in memory. Rows of one shard that share all but their 16 low
    bits are a run: run r begins with the id `run_starts[r]`, its rows are
    `run_rows[r] + low_bits[id]`.
    """

    shard_ids: npt.NDArray[np.uint32]
    starts: Ids
    sample_bytes: npt.NDArray[np.float64]
    run_starts: Ids
    run_rows: npt.NDArray[np.uint32]
    low_bits: npt.NDArray[np.uint16]
    weights: Weights

    @staticmethod
    def of_index(index: IndexFile, corpus: Corpus) -> "Selected":
        """Of an index of rows of `corpus`."""

        def mean_sample_bytes(shard_id: int) -> float:
            shard = corpus.shard(shard_id)
            return shard.num_bytes / max(shard.num_samples, 1) + SAMPLE_OVERHEAD_BYTES

        return Selected.of(
            index.batches(), num_samples=index.num_samples, sample_bytes=mean_sample_bytes
        )

    @staticmethod
    def of(
        batches: Iterable[IndexBatch], *, num_samples: int, sample_bytes: Callable[[int], float]
    ) -> "Selected":
        """Of an index of `num_samples` rows in (shard, row) order; `sample_bytes` is asked once for
        every shard in it.
        """
        low_bits = np.zeros(num_samples, np.uint16)
        weights = _WeightCodes(num_samples)
        runs: list[tuple[Ids, npt.NDArray[np.uint64]]] = []
        first, last_run = 0, None
        for shards, rows, values in batches:
            end = first + len(rows)
            low_bits[first:end] = rows & np.uint32((1 << _LOW_BITS) - 1)
            weights.put(first, values)
            run = (shards.astype(np.uint64) << np.uint64(32)) | (rows >> np.uint32(_LOW_BITS))
            begins = np.flatnonzero(np.diff(run, prepend=run[:1])) if len(run) else run[:0]
            if len(run) and run[0] != last_run:
                begins = np.concatenate([[0], begins])
            runs.append((begins.astype(np.int64) + first, run[begins.astype(np.int64)]))
            first, last_run = end, run[-1] if len(run) else last_run
        assert first == num_samples, "an index has as many rows as its footer says"
        run_starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in runs)])
        run_keys = np.concatenate([np.zeros(0, np.uint64), *(keys for _, keys in runs)])
        shard_of_run = (run_keys >> np.uint64(32)).astype(np.uint32)
        shard_ids, first_runs = np.unique(shard_of_run, return_index=True)
        return Selected(
            shard_ids=shard_ids,
            starts=np.append(run_starts[first_runs], num_samples),
            sample_bytes=np.array([sample_bytes(shard) for shard in shard_ids.tolist()], float),
            run_starts=run_starts,
            run_rows=run_keys.astype(np.uint32) << np.uint32(_LOW_BITS),
            low_bits=low_bits,
            weights=weights.done(),
        )

    def __len__(self) -> int:
        return len(self.low_bits)

    def rows_of(self, ids: Ids) -> npt.NDArray[np.uint32]:
        """The row of each id in its shard."""
        runs = np.searchsorted(self.run_starts, ids, side="right") - 1
        return np.asarray(self.run_rows[runs] + self.low_bits[ids])

    def shard_ordinals(self, ids: Ids) -> Ids:
        """For each id the `k` of its shard in `shard_ids`."""
        return np.asarray(np.searchsorted(self.starts, ids, side="right") - 1, dtype=np.int64)

    def shards_of(self, ids: Ids) -> npt.NDArray[np.uint32]:
        return self.shard_ids[self.shard_ordinals(ids)]

    def sample_keys(self, ids: Ids) -> npt.NDArray[np.uint64]:
        """`shard_id << 32 | row`, as in `schema.sample_key`."""
        shards = self.shards_of(ids).astype(np.uint64)
        return (shards << np.uint64(32)) | self.rows_of(ids).astype(np.uint64)

    @property
    def mean_bytes(self) -> float:
        """Of a selected sample in memory."""
        counts = np.diff(self.starts)
        return float((counts * self.sample_bytes).sum() / max(len(self), 1))


class _WeightCodes:
    """Collects weights as codes for as long as few of them differ."""

    def __init__(self, size: int) -> None:
        self._values = np.zeros(0, np.float32)
        self._codes: npt.NDArray[np.uint8] | None = np.zeros(size, np.uint8)
        self._plain = np.zeros(0, np.float32)

    def put(self, first: int, values: npt.NDArray[np.float32]) -> None:
        end = first + len(values)
        if self._codes is None:
            self._plain[first:end] = values
            return
        # Appended, so that earlier codes stay what they are.
        found, _ = np.unique(values, return_counts=True)  # without: it imports numpy.ma
        new = found[~np.isin(found, self._values)]
        if len(self._values) + len(new) > _MAX_CODES:
            self._plain = np.zeros(len(self._codes), np.float32)
            self._plain[:first] = self._values[self._codes[:first]] if first else 0
            self._codes = None
            self.put(first, values)
            return
        self._values = np.append(self._values, new).astype(np.float32)
        if len(self._values) == 1:
            return  # all have the code 0: their memory stays untouched
        order = np.argsort(self._values)
        places = np.searchsorted(self._values, values, sorter=order)
        self._codes[first:end] = order[places]

    def done(self) -> Weights:
        return Weights(self._plain) if self._codes is None else Weights(self._values, self._codes)
