"""Samples that wait for their micro-batch, as columns."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.streaming.sample_buffer import Columns, SampleBuffer


def columns(ids: list[int], epoch: int) -> Columns:
    values = {"image": [bytes([number]) for number in ids], "epoch": [epoch] * len(ids)}
    return np.array(ids, np.int64), values


@given(
    cuts=st.lists(st.integers(0, 60), max_size=5),
    piece_size=st.integers(1, 15),
    batch_size=st.integers(1, 25),
    seed=st.integers(0, 99),
)
def test_every_sample_is_handed_out_when_it_is_asked_for(
    cuts: list[int], piece_size: int, batch_size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    epochs = [np.split(rng.permutation(60), sorted(cuts)) for _ in range(3)]

    def read() -> Iterator[Columns]:
        for epoch, shuffled in enumerate(epochs):
            for block in shuffled:
                ids = sorted(block.tolist())  # a block of no samples has no pieces
                for first in range(0, len(ids), piece_size):
                    yield columns(ids[first : first + piece_size], epoch)

    buffer = SampleBuffer(read())
    for epoch, shuffled in enumerate(epochs):
        order = np.concatenate(shuffled)
        for first in range(0, len(order), batch_size):
            wanted = order[first : first + batch_size]
            images = [bytes([number]) for number in wanted.tolist()]
            assert buffer.take(wanted) == {"image": images, "epoch": [epoch] * len(images)}


def test_no_more_is_read_than_is_asked_for() -> None:
    read = iter([columns([0, 1], 0), columns([2, 3], 0), columns([4], 0)])
    buffer = SampleBuffer(read)
    assert buffer.take(np.array([3, 0]))["image"] == [b"\3", b"\0"]
    assert len(list(read)) == 1


def test_what_was_taken_is_let_go_of_when_the_next_block_is_read() -> None:
    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    def read() -> Iterator[Columns]:
        for block in range(10):
            for piece in range(5):
                first = 50 * block + 10 * piece
                yield np.arange(first, first + 10), {"x": [Value() for _ in range(10)]}

    buffer = SampleBuffer(read())
    for first in range(0, 500, 20):
        buffer.take(np.arange(first, first + 20)[::-1])
        # Of one block, a piece of the next, and what a batch took.
        assert Value.alive <= 50 + 10 + 20


def test_what_does_not_come_is_no_sample_of_another() -> None:
    buffer = SampleBuffer(iter([columns([0, 1], 0)]))
    with pytest.raises(StopIteration):
        buffer.take(np.array([0, 2]))
