"""Filling of batches: every sample once, within the budget, with little padding."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trainers.filling import MAX_PADDING, fill, padded

LENGTHS = st.lists(st.integers(1, 2000), max_size=80)


@given(LENGTHS, st.integers(1, 5000), st.none() | st.integers(1, 20))
def test_every_sample_is_in_one_batch_within_the_limits_and_5_percent_are_padding(
    lengths: list[int], units: int, max_samples: int | None
) -> None:
    batches = fill(lengths, units=units, max_samples=max_samples)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    costs = [padded([lengths[position] for position in batch]) for batch in batches]
    for batch, cost in zip(batches, costs, strict=True):
        assert cost <= units or len(batch) == 1
        assert len(batch) <= (max_samples or len(lengths))
    assert sum(costs) - sum(lengths) <= MAX_PADDING * sum(costs) + 1e-9


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
