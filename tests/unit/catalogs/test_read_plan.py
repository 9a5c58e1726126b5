"""Read plan: ranges that are requested for extents."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from catalogs.read_plan import Extent, FetchedRanges, check_rows, coalesce, coalesce_bounded

extents = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 40)), max_size=12)


def cost(ranges: list[Extent], request_bytes: int) -> int:
    return sum(num_bytes + request_bytes for _, num_bytes in ranges)


@given(extents, st.integers(0, 100))
def test_every_extent_can_be_cut_from_what_was_requested(
    extents: list[Extent], request_bytes: int
) -> None:
    shard = bytes(index % 251 for index in range(600))
    ranges = coalesce(extents, request_bytes=request_bytes)
    fetched = FetchedRanges(ranges, [shard[offset : offset + size] for offset, size in ranges])
    for offset, size in extents:
        assert bytes(fetched.cut(offset, size)) == shard[offset : offset + size]
    assert fetched.num_bytes == sum(size for _, size in ranges)


@given(extents, st.integers(0, 100))
def test_ranges_are_sorted_and_further_apart_than_a_request_costs(
    extents: list[Extent], request_bytes: int
) -> None:
    ranges = coalesce(extents, request_bytes=request_bytes)
    for (offset, size), (following, _) in itertools.pairwise(ranges):
        assert following - (offset + size) > request_bytes


@given(extents, st.integers(0, 100), st.integers(0, 100))
def test_no_other_merge_makes_a_cheaper_plan(
    extents: list[Extent], request_bytes: int, other_gap: int
) -> None:
    best = coalesce(extents, request_bytes=request_bytes)
    other = coalesce(extents, request_bytes=other_gap)
    assert cost(best, request_bytes) <= cost(other, request_bytes)


def test_near_extents_are_one_request_and_far_ones_are_not() -> None:
    extents = [(0, 10), (15, 10), (1000, 10)]
    assert coalesce(extents, request_bytes=5) == [(0, 25), (1000, 10)]
    assert coalesce(extents, request_bytes=4) == [(0, 10), (15, 10), (1000, 10)]
    assert coalesce(extents, request_bytes=10_000) == [(0, 1010)]


@given(
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(33_000, 90_000)), min_size=1, max_size=30)
)
def test_read_amplification_of_large_samples_is_at_most_a_fifth(
    gaps_and_sizes: list[tuple[int, int]],
) -> None:
    extents, end = [], 0
    for gap, size in gaps_and_sizes:
        extents.append((end + gap, size))
        end += gap + size
    ranges = coalesce_bounded(extents, request_bytes=1 << 20, num_samples=len(extents))
    total = sum(size for _, size in extents)
    assert sum(size for _, size in ranges) <= 1.2 * total
    for offset, size in extents:
        assert any(o <= offset and offset + size <= o + s for o, s in ranges)
    small = coalesce_bounded(extents, request_bytes=1 << 20, num_samples=100 * len(extents))
    assert small == coalesce(extents, request_bytes=1 << 20)


def test_the_smallest_gaps_are_read_first() -> None:
    extents = [(0, 100_000), (110_000, 100_000), (700_000, 100_000), (805_000, 100_000)]
    ranges = coalesce_bounded(extents, request_bytes=1 << 20, num_samples=4)
    assert ranges == [(0, 210_000), (700_000, 205_000)]


def test_an_extent_inside_another_costs_nothing() -> None:
    assert coalesce([(0, 100), (10, 5)], request_bytes=0) == [(0, 100)]


def test_cutting_an_extent_that_was_not_requested_is_an_assertion_error() -> None:
    fetched = FetchedRanges([(10, 5)], [b"abcde"])
    for extent in ((9, 2), (12, 5), (0, 1)):
        with pytest.raises(AssertionError):
            fetched.cut(*extent)


@given(st.lists(st.integers(-3, 12), max_size=6))
def test_rows_must_be_increasing_and_in_the_shard(rows: list[int]) -> None:
    good = rows == sorted(set(rows)) and all(0 <= row < 10 for row in rows)
    if good:
        assert check_rows(rows, num_samples=10, url="x").tolist() == rows
    else:
        with pytest.raises(InputError, match="x"):
            check_rows(rows, num_samples=10, url="x")
