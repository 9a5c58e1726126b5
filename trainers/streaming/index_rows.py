"""The rows of an index in memory: two bytes a row, and its weight; fits 10^8 rows.

A sample is named by its `id`: its position in the index, in (shard, row) order.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from catalogs.corpus import Corpus
from catalogs.index import IndexFile

Ids = npt.NDArray[np.int64]
# shard_id u32[n], row u32[n] and weight f32[n] of consecutive rows of an index.
IndexBatch = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]

# Memory of a sample besides its bytes: its Python objects.
SAMPLE_OVERHEAD_BYTES = 512
# The low bits of a row are stored per row, the high bits once per group of equal ones.
_LOW_BITS = 16
_MAX_CODES = 256


@dataclass(frozen=True, eq=False)
class Weights:
    """float32 weights, stored as codes of one byte where there are at most 256 distinct ones."""

    values: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8] | None = None

    def of(self, ids: Ids) -> npt.NDArray[np.float32]:
        """Return the weights float32 of `ids`."""
        return self.values[ids if self.codes is None else self.codes[ids]]


@dataclass(frozen=True, eq=False)
class Selected:
    """The rows of an index.

    `shard_ids[k]` has the ids `starts[k]` to `starts[k + 1]`; `sample_bytes[k]` estimates the mean
    size of that shard's samples in memory. Rows of one shard that differ only in their 16 low bits
    are a group: group g begins with the id `group_starts[g]`, its rows are
    `group_rows[g] + low_bits[id]`. `uniform_ids` are the rows that were drawn uniformly, ascending.
    """

    shard_ids: npt.NDArray[np.uint32]
    starts: Ids
    sample_bytes: npt.NDArray[np.float64]
    group_starts: Ids
    group_rows: npt.NDArray[np.uint32]
    low_bits: npt.NDArray[np.uint16]
    weights: Weights
    uniform_ids: Ids = field(default_factory=lambda: np.zeros(0, np.int64))

    @staticmethod
    def of_index(index: IndexFile, corpus: Corpus) -> "Selected":
        """Read the rows of an index of `corpus`."""

        def mean_sample_bytes(shard_id: int) -> float:
            shard = corpus.shard(shard_id)
            return shard.num_bytes / max(shard.num_samples, 1) + SAMPLE_OVERHEAD_BYTES

        selected = Selected.of(
            index.batches(), num_samples=index.num_samples, sample_bytes=mean_sample_bytes
        )
        return replace(selected, uniform_ids=index.uniform_positions())

    @staticmethod
    def of(
        batches: Iterable[IndexBatch], *, num_samples: int, sample_bytes: Callable[[int], float]
    ) -> "Selected":
        """Collect the `num_samples` rows of an index, in (shard, row) order; `sample_bytes` is
        called once for every shard in it.
        """
        low_bits = np.zeros(num_samples, np.uint16)
        codes = _WeightCodes(num_samples)
        groups: list[tuple[Ids, npt.NDArray[np.uint64]]] = []
        first, last_group = 0, None
        for shards, rows, values in batches:
            end = first + len(rows)
            low_bits[first:end] = rows & np.uint32((1 << _LOW_BITS) - 1)
            codes.put(first, values)
            group = (shards.astype(np.uint64) << np.uint64(32)) | (rows >> np.uint32(_LOW_BITS))
            begins = np.flatnonzero(np.diff(group, prepend=group[:1])) if len(group) else group[:0]
            if len(group) and group[0] != last_group:
                begins = np.concatenate([[0], begins])
            groups.append((begins.astype(np.int64) + first, group[begins.astype(np.int64)]))
            first, last_group = end, group[-1] if len(group) else last_group
        assert first == num_samples, "an index has as many rows as its footer says"
        group_starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in groups)])
        group_keys = np.concatenate([np.zeros(0, np.uint64), *(keys for _, keys in groups)])
        shard_of_group = (group_keys >> np.uint64(32)).astype(np.uint32)
        shard_ids, first_groups = np.unique(shard_of_group, return_index=True)
        return Selected(
            shard_ids=shard_ids,
            starts=np.append(group_starts[first_groups], num_samples),
            sample_bytes=np.array([sample_bytes(shard) for shard in shard_ids.tolist()], float),
            group_starts=group_starts,
            group_rows=group_keys.astype(np.uint32) << np.uint32(_LOW_BITS),
            low_bits=low_bits,
            weights=codes.weights(),
        )

    def __len__(self) -> int:
        return len(self.low_bits)

    def rows_of(self, ids: Ids) -> npt.NDArray[np.uint32]:
        """Return the row of each id in its shard."""
        groups = np.searchsorted(self.group_starts, ids, side="right") - 1
        return np.asarray(self.group_rows[groups] + self.low_bits[ids])

    def shard_ordinals(self, ids: Ids) -> Ids:
        """Return the position in `shard_ids` of each id's shard."""
        return np.asarray(np.searchsorted(self.starts, ids, side="right") - 1, dtype=np.int64)

    def shards_of(self, ids: Ids) -> npt.NDArray[np.uint32]:
        return self.shard_ids[self.shard_ordinals(ids)]

    def sample_keys(self, ids: Ids) -> npt.NDArray[np.uint64]:
        """Return `shard_id << 32 | row` of each id, as in `schema.sample_key`."""
        shards = self.shards_of(ids).astype(np.uint64)
        return (shards << np.uint64(32)) | self.rows_of(ids).astype(np.uint64)

    @property
    def mean_bytes(self) -> float:
        """Mean bytes of a selected sample in memory."""
        counts = np.diff(self.starts)
        return float((counts * self.sample_bytes).sum() / max(len(self), 1))


@dataclass(frozen=True, eq=False)
class RowSubset:
    """Some rows of an index, by their rank among them: `starts` as in `Selected`.

    Either `uniform_ids` (where `is_uniform`), or all other rows.
    """

    selected: Selected
    starts: Ids
    is_uniform: bool = False

    def __len__(self) -> int:
        return int(self.starts[-1])

    def ids_of(self, ranks: Ids) -> Ids:
        """Return the id of the row with each rank."""
        uniform = self.selected.uniform_ids
        if self.is_uniform:
            return np.asarray(uniform[ranks])
        # The rows by key before the k-th uniform one; nothing as large as the index is held.
        before = uniform - np.arange(len(uniform))
        return np.asarray(ranks + np.searchsorted(before, ranks, side="right"))


def subsets_by_origin(selected: Selected) -> tuple[RowSubset, ...]:
    """Return the rows selected by key and those drawn uniformly, or all where one is empty."""
    if not 0 < len(selected.uniform_ids) < len(selected):
        everything = replace(selected, uniform_ids=np.zeros(0, np.int64))
        return (RowSubset(everything, selected.starts),)
    uniform_starts = np.asarray(np.searchsorted(selected.uniform_ids, selected.starts))
    by_key = RowSubset(selected, selected.starts - uniform_starts)
    return by_key, RowSubset(selected, uniform_starts, is_uniform=True)


class _WeightCodes:
    """Weights as codes, until there are too many distinct ones."""

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
        # Without `return_counts`, unique imports numpy.ma.
        distinct, _ = np.unique(values, return_counts=True)
        new = distinct[~np.isin(distinct, self._values)]
        if len(self._values) + len(new) > _MAX_CODES:
            self._plain = np.zeros(len(self._codes), np.float32)
            self._plain[:first] = self._values[self._codes[:first]] if first else 0
            self._codes = None
            self.put(first, values)
            return
        self._values = np.append(self._values, new).astype(np.float32)
        if len(self._values) == 1:
            return  # all have code 0: that memory is never touched
        order = np.argsort(self._values)
        positions = np.searchsorted(self._values, values, sorter=order)
        self._codes[first:end] = order[positions]

    def weights(self) -> Weights:
        return Weights(self._plain) if self._codes is None else Weights(self._values, self._codes)
