"""A permutation that is computed place by place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attent_select.stats.permutation import permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_every_place_holds_another_one_of_all_things(size: int, key: int) -> None:
    found = permute(np.arange(size), size=size, key=key)
    assert sorted(found.tolist()) == list(range(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.data())
def test_a_place_can_be_asked_for_alone(size: int, key: int, data: st.DataObject) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), np.int64)
    found = permute(places, size=size, key=key)
    assert np.all((found >= 0) & (found < size))
    assert found.tolist() == [
        int(permute(places[k : k + 1], size=size, key=key)[0]) for k in range(len(places))
    ]


def test_no_place_is_more_likely_than_another() -> None:
    # 4000 keys, 10 places: 400 expected in each cell, standard deviation 19: six of them.
    cells = np.zeros((10, 10), int)
    for key in range(4000):
        cells[np.arange(10), permute(np.arange(10), size=10, key=key)] += 1
    assert np.abs(cells - 400).max() < 6 * 19


def test_what_was_in_order_is_not_afterwards() -> None:
    found = permute(np.arange(100_000), size=100_000, key=5)
    assert abs(np.corrcoef(np.arange(100_000), found)[0, 1]) < 0.02
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02


def test_it_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert permute(np.arange(7), size=7, key=2026).tolist() == [4, 6, 1, 5, 0, 3, 2]
