"""The order of an index with rows of two origins: each batch has its share of both."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.settings import OrderSettings, StreamingSettings
from trainers.streaming.index_rows import Selected, subsets_by_origin
from trainers.streaming.order import Order


def selected_rows(shard_rows: list[int], uniform: list[int]) -> Selected:
    shards = np.repeat(np.arange(len(shard_rows), dtype=np.uint32), shard_rows)
    rows = np.concatenate([np.arange(count, dtype=np.uint32) for count in shard_rows])
    batch = (shards, rows, np.ones(len(rows), np.float32))
    selected = Selected.of([batch], num_samples=len(rows), sample_bytes=lambda _: 1000.0)
    return replace(selected, uniform_ids=np.array(sorted(uniform), np.int64))


@st.composite
def indexes(draw: st.DrawFn) -> Selected:
    shard_rows = draw(st.lists(st.integers(1, 60), min_size=1, max_size=6))
    ids = list(range(sum(shard_rows)))
    return selected_rows(shard_rows, draw(st.lists(st.sampled_from(ids), unique=True)))


@settings(deadline=None)
@given(
    selected=indexes(),
    batch_size=st.integers(1, 16),
    shuffle=st.sampled_from(["block", "full"]),
    block_bytes=st.integers(1, 200_000),
    epochs=st.integers(1, 2),
    data=st.data(),
)
def test_each_batch_has_its_share_of_each_origin_to_within_one_sample(
    selected: Selected,
    batch_size: int,
    shuffle: str,
    block_bytes: int,
    epochs: int,
    data: st.DataObject,
) -> None:
    streaming = StreamingSettings(shuffle=shuffle, block_bytes=block_bytes)
    order = Order(selected, OrderSettings(3, batch_size, epochs=epochs), streaming)
    steps = [ids for _, ids in order.steps()]
    per_epoch = len(steps) // epochs
    for epoch in range(epochs):
        ids = np.concatenate(steps[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(ids) == list(range(len(selected)))
    share = len(selected.uniform_ids) / len(selected)
    for ids in steps:
        assert abs(np.isin(ids, selected.uniform_ids).sum() - share * len(ids)) <= 1
    # A training that is resumed has the same batches.
    start = data.draw(st.integers(0, order.num_steps))
    later = [ids.tolist() for _, ids in order.steps(start)]
    assert later == [ids.tolist() for ids in steps[start:]]


def test_an_order_without_origins_is_as_before() -> None:
    order = Order(selected_rows([50, 30], []), OrderSettings(3, 8), StreamingSettings())
    everything = Order(
        selected_rows([50, 30], list(range(80))), OrderSettings(3, 8), StreamingSettings()
    )
    assert order.digest() == everything.digest()


@given(selected=indexes())
def test_subsets_have_every_row_once(selected: Selected) -> None:
    subsets = subsets_by_origin(selected)
    ids = [subset.ids_of(np.arange(len(subset))) for subset in subsets]
    assert sorted(np.concatenate(ids)) == list(range(len(selected)))
    if len(subsets) == 2:
        assert ids[1].tolist() == selected.uniform_ids.tolist()


@pytest.mark.parametrize("shuffle", ["block", "full"])
def test_uniform_rows_are_spread_over_a_batch(shuffle: str) -> None:
    selected = selected_rows([64], list(range(8)))
    streaming = StreamingSettings(shuffle=shuffle)
    for _, ids in Order(selected, OrderSettings(0, 16), streaming).steps():
        assert np.isin(ids, selected.uniform_ids).sum() == 2
