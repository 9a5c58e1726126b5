"""Walks through the rows of a corpus: every row once a pass, however the walk is cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import TooFewError
from attent_select.schedule.candidate_walk import Candidates, CandidateWalk, Numbers, Place

SHARDS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def walk_of(shard_rows: list[int], *, block_rows: int = 4, seed: int = 0) -> CandidateWalk:
    return CandidateWalk(np.array(shard_rows, np.int64), block_rows, seed)


def drawn(candidates: Candidates) -> list[tuple[int, int]]:
    return list(zip(candidates.shards.tolist(), candidates.rows.tolist(), strict=True))


def rows_of(shard_rows: list[int]) -> set[tuple[int, int]]:
    return {(shard, row) for shard, count in enumerate(shard_rows) for row in range(count)}


@given(SHARDS, st.integers(1, 9), st.lists(st.integers(1, 30), min_size=1, max_size=8), st.data())
def test_a_pass_draws_every_row_once_however_the_walk_is_cut(
    shard_rows: list[int], block_rows: int, sizes: list[int], data: st.DataObject
) -> None:
    walk = walk_of(shard_rows, block_rows=block_rows, seed=data.draw(st.integers(0, 9)))
    total, place, seen = sum(shard_rows), Place(), []
    for size in sizes:
        if len(seen) == total:
            break
        candidates = walk.draw(min(size, total - len(seen)), start=place)
        place = candidates.place
        assert drawn(candidates) == sorted(drawn(candidates))
        seen += drawn(candidates)
    assert len(set(seen)) == len(seen)
    # The rest of the pass has exactly the other rows.
    if len(seen) < total:
        rest = walk.draw(total - len(seen), start=place)
        assert {*seen, *drawn(rest)} == rows_of(shard_rows)
        # Cut or not, the same rows come first.
        assert set(drawn(walk.draw(len(seen) or 1, start=Place()))) >= set(seen)


@given(SHARDS, st.integers(1, 60), st.integers(1, 60))
def test_ineligible_rows_are_never_drawn_and_the_others_once(
    shard_rows: list[int], first: int, second: int
) -> None:
    walk = walk_of(shard_rows)
    eligible = sorted(pair for pair in rows_of(shard_rows) if sum(pair) % 3)
    sizes = [min(first, len(eligible))]
    sizes.append(min(second, len(eligible) - sizes[0]))
    place, seen = Place(), []
    for size in filter(None, sizes):
        candidates = walk.draw(
            size, start=place, is_eligible=lambda shards, rows: (shards + rows) % 3 > 0
        )
        place, seen = candidates.place, seen + drawn(candidates)
    assert len(set(seen)) == len(seen) == sum(sizes)
    assert set(seen) <= set(eligible)


def test_the_next_pass_has_another_order_and_no_row_is_twice_in_a_draw() -> None:
    walk = walk_of([30, 31])
    first = walk.draw(50, start=Place())
    across = walk.draw(40, start=first.place)
    assert across.place.pass_number == 1
    assert len(set(drawn(across))) == 40
    # What was left of the first pass is drawn first.
    assert rows_of([30, 31]) - set(drawn(first)) <= set(drawn(across))
    again = walk.draw(61, start=Place(1))
    assert drawn(again) == sorted(rows_of([30, 31]))
    assert drawn(walk.draw(20, start=Place(1))) != drawn(walk.draw(20, start=Place(0)))


def test_more_than_is_eligible_is_an_error_that_says_how_much_is() -> None:
    walk = walk_of([10, 10])
    place = walk.draw(7, start=Place()).place
    with pytest.raises(TooFewError, match="21 candidates are asked for, 20 rows are eligible"):
        walk.draw(21, start=place)
    with pytest.raises(TooFewError, match="5 candidates are asked for, 4 rows are eligible"):
        walk.draw(5, start=place, is_eligible=lambda _, rows: rows % 5 == 0)


def test_shards_that_are_appended_are_visited_in_the_next_pass() -> None:
    first = walk_of([20, 20]).draw(30, start=Place())
    grown = walk_of([20, 20, 20])
    rest = grown.draw(10, start=first.place)
    assert {*drawn(first), *drawn(rest)} == rows_of([20, 20])
    assert set(drawn(grown.draw(60, start=rest.place))) == rows_of([20, 20, 20])


@given(SHARDS, SHARDS, st.integers(1, 9), st.data())
def test_a_growing_corpus_draws_every_row_once_a_pass(
    shard_rows: list[int], appended: list[int], block_rows: int, data: st.DataObject
) -> None:
    old, new = sum(shard_rows), sum(appended)
    before = data.draw(st.integers(1, old))
    first = walk_of(shard_rows, block_rows=block_rows).draw(before, start=Place())
    grown = walk_of([*shard_rows, *appended], block_rows=block_rows)
    seen, place = drawn(first), first.place
    sizes = data.draw(st.lists(st.integers(1, 30), max_size=6))
    # The rest of the pass over the old rows, then a whole pass over all rows, in any pieces.
    for end, rows in ((old, shard_rows), (old + old + new, [*shard_rows, *appended])):
        passed: list[tuple[int, int]] = seen if end == old else []
        while len(passed) < sum(rows):
            size = min(sizes.pop() if sizes else 40, sum(rows) - len(passed))
            candidates = grown.draw(size, start=place)
            place, passed = candidates.place, passed + drawn(candidates)
        assert len(passed) == len(set(passed))
        assert set(passed) == rows_of(rows)


@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=8), min_size=1, max_size=5),
    st.integers(1, 9),
    st.lists(st.integers(1, 30), max_size=8),
)
def test_row_groups_of_any_sizes_are_drawn_whole_and_each_row_once_a_pass(
    groups: list[list[int]], block_rows: int, sizes: list[int]
) -> None:
    starts = [np.cumsum([0, *of_shard]) for of_shard in groups]

    def next_edge(shards: Numbers, rows: Numbers) -> Numbers:
        edges = [
            starts[n][np.searchsorted(starts[n], row)] for n, row in zip(shards, rows, strict=True)
        ]
        return np.array(edges, np.int64)

    shard_rows = [sum(of_shard) for of_shard in groups]
    walk = CandidateWalk(np.array(shard_rows), block_rows, 0, next_edge)
    place, seen = Place(), []
    while len(seen) < sum(shard_rows):
        left = sum(shard_rows) - len(seen)
        candidates = walk.draw(min(sizes.pop() if sizes else left, left), start=place)
        place, seen = candidates.place, seen + drawn(candidates)
    assert len(set(seen)) == len(seen)
    assert set(seen) == rows_of(shard_rows)
    # Row by row, a row group is finished before the next block begins.
    place, order = Place(), []
    for _ in seen:
        candidates = walk.draw(1, start=place)
        place, order = candidates.place, order + drawn(candidates)
    blocks = [
        (shard, starts[shard][np.searchsorted(starts[shard], row, "right") - 1] // block_rows)
        for shard, row in order
    ]
    assert len([1 for one, other in pairwise(blocks) if one != other]) == len(set(blocks)) - 1


def test_blocks_are_drawn_together() -> None:
    candidates = walk_of([64, 64, 64], block_rows=16).draw(48, start=Place())
    blocks = {(shard, row // 16) for shard, row in drawn(candidates)}
    assert len(blocks) == 3
    # Another seed, other blocks; the same seed, the same.
    assert drawn(walk_of([64] * 3, block_rows=16).draw(48, start=Place())) == drawn(candidates)
    others = walk_of([64] * 3, block_rows=16, seed=1).draw(48, start=Place())
    assert drawn(others) != drawn(candidates)


@given(SHARDS, st.lists(st.tuples(st.integers(0, 3), st.integers(1, 25)), max_size=25))
def test_every_pass_of_a_growing_corpus_draws_each_row_of_its_beginning_once(
    shard_rows: list[int], steps: list[tuple[int, int]]
) -> None:
    """Each step appends some shards, then another process continues the walk at its place."""
    rows, place, number = list(shard_rows), Place(), -1
    of_pass: dict[int, list[int]] = {-1: []}
    seen: dict[int, list[tuple[int, int]]] = {-1: []}
    for appended, size in steps:
        rows = [*rows, *range(5, 5 + appended)]
        left = sum(of_pass[number]) - len(seen[number])
        if not left:  # the next draw begins a pass, with all shards that are there
            number += 1
            of_pass[number], seen[number] = list(rows), []
            left = sum(rows)
        candidates = walk_of(rows, seed=3).draw(min(size, left), start=place)
        place = candidates.place
        seen[number] += drawn(candidates)
    for number, pairs in seen.items():
        assert len(set(pairs)) == len(pairs)
        assert set(pairs) <= rows_of(of_pass[number])
        if len(pairs) == sum(of_pass[number]):
            assert set(pairs) == rows_of(of_pass[number])
