"""The rows of an index in memory: looked up as they were put in, and small."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.streaming.index_rows import IndexBatch, Selected

KEYS = st.sets(
    st.tuples(
        st.integers(0, 3), st.sampled_from([0, 1, 5, 65535, 65536, 65540, 200_000, 2**32 - 1])
    )
).map(sorted)


def selected(batches: list[IndexBatch]) -> Selected:
    total = sum(len(rows) for _, rows, _ in batches)
    return Selected.of(batches, num_samples=total, sample_bytes=lambda shard: 10.0 + shard)


def batch(keys: list[tuple[int, int]], weights: list[float]) -> IndexBatch:
    shards, rows = (np.array([key[k] for key in keys], np.uint32) for k in (0, 1))
    return shards, rows, np.array(weights, np.float32)


@given(KEYS, st.data())
def test_rows_shards_and_weights_come_back_whatever_batches_they_came_in(
    keys: list[tuple[int, int]], data: st.DataObject
) -> None:
    weights = data.draw(
        st.lists(st.floats(width=32, allow_nan=False), min_size=len(keys), max_size=len(keys))
    )
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(keys)), max_size=3))), len(keys)]
    found = selected([batch(keys[a:b], weights[a:b]) for a, b in itertools.pairwise(cuts)])
    ids = np.arange(len(keys))
    assert len(found) == len(keys)
    assert found.shards_of(ids).tolist() == [shard for shard, _ in keys]
    assert found.rows_of(ids).tolist() == [row for _, row in keys]
    assert found.weights.of(ids).tolist() == weights
    assert found.shard_ids.tolist() == sorted({shard for shard, _ in keys})
    assert found.sample_bytes.tolist() == [10.0 + shard for shard in found.shard_ids]
    assert found.sample_keys(ids).tolist() == [shard << 32 | row for shard, row in keys]


def test_weights_that_all_differ_are_kept_too() -> None:
    keys = [(0, row) for row in range(700)]
    values = [row / 7 for row in range(700)]
    batches = [batch(keys[k : k + 100], values[k : k + 100]) for k in range(0, 700, 100)]
    found = selected(batches).weights
    assert found.codes is None
    assert np.array_equal(found.of(np.arange(700)), np.array(values, np.float32))


def test_a_row_takes_two_bytes_and_one_for_its_weight_where_few_weights_differ() -> None:
    keys = [(row // 1000, row % 1000) for row in range(100_000)]
    found = selected([batch(keys, [1.0 + row % 2 for _, row in keys])])
    arrays = (found.low_bits, found.weights.codes, found.weights.values, found.starts)
    assert sum(array.nbytes for array in arrays if array is not None) < 3.1 * len(keys)
