"""What a shuffle leaves of the stored order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Selected
from trainers.streaming.order import Order
from trainers.streaming.shuffle_quality import shuffle_quality


def test_the_stored_order_is_told_by_both_numbers() -> None:
    found = shuffle_quality(np.arange(1000), np.repeat(np.arange(10), 100), batch_size=50)
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.batch_mix == pytest.approx(0.9)  # one class of ten in each batch
    assert found.perfect_batch_mix < 0.25


def test_the_reverse_order_correlates_the_other_way() -> None:
    assert shuffle_quality(
        np.arange(100)[::-1], np.zeros(100, np.int64), batch_size=10
    ).rank_correlation == pytest.approx(-1.0)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 20))
def test_the_distance_is_what_counting_gives(classes: list[int], batch_size: int) -> None:
    groups = np.array(classes, np.int64)
    found = shuffle_quality(np.arange(len(groups)), groups, batch_size=batch_size).batch_mix
    size = min(batch_size, len(classes))
    distances = []
    for first in range(0, len(classes) - size + 1, size) if size else ():
        batch = classes[first : first + size]
        distances.append(
            sum(abs(batch.count(k) / size - classes.count(k) / len(classes)) for k in range(6)) / 2
        )
    assert found == pytest.approx(np.mean(distances) if distances else 0.0)


@pytest.mark.parametrize(("shuffle", "most"), [("full", 1.05), ("block", 3.6)])
def test_a_corpus_sorted_by_class_is_mixed_as_far_as_its_blocks_reach(
    shuffle: str, most: float
) -> None:
    # 50 shards, five of each class; a block has six of them. In stored order the mix is 0.9.
    batch = (
        np.repeat(np.arange(50), 200).astype(np.uint32),
        np.tile(np.arange(200), 50).astype(np.uint32),
        np.ones(10_000, np.float32),
    )
    rows = Selected.of([batch], num_samples=10_000, sample_bytes=lambda _: 100.0)
    settings = OrderSettings(seed=3, batch_size=100, epochs=2)
    order = Order(rows, settings, StreamingSettings(shuffle=shuffle, block_bytes=125_000))
    ids = np.concatenate([ids for step, ids in order.steps() if step >= order.steps_per_epoch])
    found = shuffle_quality(ids, rows.shards_of(ids) // 5, batch_size=100)
    assert abs(found.rank_correlation) < 0.3
    assert found.batch_mix < most * found.perfect_batch_mix
