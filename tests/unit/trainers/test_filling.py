"""Filling of batches: every sample once, within the budget, with little padding."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainers.filling import MAX_PADDING, cost, fill

LENGTHS = st.lists(st.integers(1, 2000), max_size=80)


@given(LENGTHS, st.integers(1, 5000), st.none() | st.integers(1, 20), st.booleans())
def test_every_sample_is_in_one_batch_within_the_limits_and_5_percent_are_padding(
    lengths: list[int], units: int, max_samples: int | None, is_packed: Any
) -> None:
    batches = fill(lengths, units=units, max_samples=max_samples, is_packed=is_packed)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    costs = [
        cost([lengths[position] for position in batch], is_packed=is_packed) for batch in batches
    ]
    for batch, units_of_batch in zip(batches, costs, strict=True):
        assert units_of_batch <= units or len(batch) == 1
        assert len(batch) <= (max_samples or len(lengths))
    padding = sum(costs) - sum(lengths)
    assert padding == 0 if is_packed else padding <= MAX_PADDING * sum(costs) + 1e-9


@given(LENGTHS)
def test_samples_are_longest_first_and_those_of_equal_length_stay_in_order(
    lengths: list[int],
) -> None:
    flat = [position for batch in fill(lengths, units=1000) for position in batch]
    keys = [(-lengths[position], position) for position in flat]
    assert all(one < two for one, two in pairwise(keys))


def test_samples_of_one_length_fill_batches_to_the_budget() -> None:
    assert fill([3] * 5, units=7) == [[0, 1], [2, 3], [4]]
    assert fill([], units=7) == []


def test_packed_samples_fill_batches_with_any_lengths() -> None:
    assert fill([1, 9, 2, 4], units=15, is_packed=True) == [[1, 3, 2], [0]]
