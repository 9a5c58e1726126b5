"""Random permutation computed per position."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attent_select.stats.permutation import permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_every_item_is_at_exactly_one_position(size: int, key: int) -> None:
    items = permute(np.arange(size), size=size, key=key)
    assert sorted(items.tolist()) == list(range(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.data())
def test_a_position_can_be_computed_alone(size: int, key: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), np.int64)
    items = permute(positions, size=size, key=key)
    assert np.all((items >= 0) & (items < size))
    assert items.tolist() == [
        int(permute(positions[k : k + 1], size=size, key=key)[0]) for k in range(len(positions))
    ]


def test_all_positions_are_equally_likely() -> None:
    # 4000 keys, 10 positions: 400 expected in each cell, standard deviation 19: six of them.
    cells = np.zeros((10, 10), int)
    for key in range(4000):
        cells[np.arange(10), permute(np.arange(10), size=10, key=key)] += 1
    assert np.abs(cells - 400).max() < 6 * 19


def test_order_is_not_preserved() -> None:
    items = permute(np.arange(100_000), size=100_000, key=5)
    assert abs(np.corrcoef(np.arange(100_000), items)[0, 1]) < 0.02
    assert abs(np.corrcoef(items[:-1], items[1:])[0, 1]) < 0.02


def test_the_permutation_has_golden_values() -> None:
    assert permute(np.arange(7), size=7, key=2026).tolist() == [4, 6, 1, 5, 0, 3, 2]
