"""Search for the edge of a selection, against a full sort, with any pilot keys."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.selection import radix, top_m
from attent_select.selection.chunks import FrameChunks
from attent_select.selection.columns import COST, ELIGIBLE, INCLUDED, KEY, STRATUM
from attent_select.selection.radix import RowPosition
from attent_select.selection.top_m import PilotKeys

Result = TypeVar("Result")
KEYS = st.one_of(
    st.floats(allow_nan=False, width=32),
    st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, 5e-324, -5e-324]),
)


def frame_of(keys: list[float]) -> pl.LazyFrame:
    return pl.LazyFrame(
        {
            "shard_id": np.arange(len(keys), dtype=np.uint32) // 3,
            "row": np.arange(len(keys), dtype=np.uint32) % 3,
            KEY: np.array(keys, dtype=np.float64),
            COST: np.ones(len(keys), dtype=np.uint64),
            STRATUM: np.zeros(len(keys), dtype=np.uint32),
            ELIGIBLE: np.ones(len(keys), dtype=np.bool_),
        }
    )


def sorted_rows(keys: list[float]) -> list[tuple[float, int]]:
    """(key, sample_key) by descending key, then ascending sample_key."""
    rows = [(key, (i // 3 << 32) | i % 3) for i, key in enumerate(keys)]
    return sorted(rows, key=lambda row: (-row[0], row[1]))


def check_edge(keys: list[float], num_selected: int, *, pilot: PilotKeys | None) -> None:
    expected = sorted_rows(keys)
    rows = frame_of(keys)
    if pilot is None:
        edge = radix.find_edges(FrameChunks(rows), {0: num_selected})[0]
    else:
        search = top_m.find_edge(FrameChunks(rows), num_selected, guess=pilot)
        assert search.num_rows == len(keys)
        edge = search.edge
    assert edge.last is not None
    assert (edge.last.key, edge.last.sample_key) == expected[num_selected - 1]
    if num_selected < len(keys):
        assert edge.first_excluded is not None
        excluded = (edge.first_excluded.key, edge.first_excluded.sample_key)
        assert excluded == expected[num_selected]
    else:
        assert edge.first_excluded is None
    included = top_m.with_mark(rows, {0: edge}, column=INCLUDED).filter(INCLUDED).collect()
    assert sample_keys(included) == sorted(key for _, key in expected[:num_selected])


def sample_keys(rows: pl.DataFrame) -> list[int]:
    return sorted((shard << 32) | row for shard, row in rows.select("shard_id", "row").iter_rows())


@given(
    keys=st.lists(KEYS, min_size=1, max_size=40),
    hints=st.none() | st.lists(KEYS, max_size=10),
    data=st.data(),
)
def test_the_edge_is_exact_for_any_pilot(
    keys: list[float], hints: list[float] | None, data: st.DataObject
) -> None:
    num_selected = data.draw(st.integers(1, len(keys)))
    represented = data.draw(st.integers(1, 100))
    limit = data.draw(st.sampled_from([1, 3, 1000]))
    pilot = None if hints is None else PilotKeys.of(pl.Series(hints, dtype=pl.Float64),
                                                      num_rows=represented)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_m, "_MAX_BRACKET_ROWS", limit)
        check_edge(keys, num_selected, pilot=pilot)


def test_a_good_pilot_finds_the_edge_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).normal(size=100_000)
    pilot = PilotKeys.of(pl.Series(keys[::10]), num_rows=len(keys))
    monkeypatch.setattr(top_m, "_MAX_GUESSES", 1)
    monkeypatch.setattr(radix, "find_edges", None)
    for num_selected in (1, 20_000, 99_999):
        check_edge(keys.tolist(), num_selected, pilot=pilot)


def test_a_biased_pilot_is_corrected_by_the_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = np.random.default_rng(0).normal(size=100_000)
    biased = keys[::10] + 0.1
    monkeypatch.setattr(radix, "find_edges", None)
    check_edge(keys.tolist(), 20_000, pilot=PilotKeys.of(pl.Series(biased), num_rows=100_000))
    monkeypatch.setattr(top_m, "_MAX_GUESSES", 1)
    with pytest.raises(TypeError):  # the first guess is not enough, so the correction is tested
        check_edge(keys.tolist(), 20_000, pilot=PilotKeys.of(pl.Series(biased), num_rows=100_000))


def test_a_bracket_with_too_many_rows_is_never_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_m, "_MAX_BRACKET_ROWS", 100)
    pilot = PilotKeys.of(pl.Series([1.0] * 50), num_rows=1000)
    counts = top_m._count_bracket(FrameChunks(frame_of([1.0] * 1000)), low=1.0, high=1.0)
    assert (counts.num_rows, counts.num_above, counts.is_complete) == (1000, 0, False)
    assert len(counts.keys) == 0
    check_edge([1.0] * 1000, 400, pilot=pilot)


def test_requesting_too_many_rows_is_an_error_with_the_number_of_rows() -> None:
    for hints in ([], [1.0]):
        pilot = PilotKeys.of(pl.Series(hints, dtype=pl.Float64), num_rows=5)
        with pytest.raises(InputError, match="6 samples requested, but only 5 are eligible"):
            top_m.find_edge(FrameChunks(frame_of([1.0] * 5)), 6, guess=pilot)


STRATA = st.lists(st.tuples(KEYS, st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=40)


@given(rows=STRATA, budgets=st.lists(st.integers(0, 60), min_size=3, max_size=3), data=st.data())
def test_every_stratum_is_selected_up_to_its_budget(
    rows: list[tuple[float, int, int]], budgets: list[int], data: st.DataObject
) -> None:
    keys, strata, costs = zip(*rows, strict=True)
    frame = frame_of(list(keys)).with_columns(
        pl.Series(STRATUM, strata, dtype=pl.UInt32),
        pl.Series(COST, costs, dtype=pl.UInt64),
    )
    # A small limit forces the search through all levels, even with few rows.
    limit = data.draw(st.sampled_from([1, 4, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix, "_MAX_EDGE_ROWS", limit)
        patch.setattr(radix, "_MAX_PENDING_ROWS", limit)
        edges = radix.find_edges(FrameChunks(frame), dict(enumerate(budgets)))
    included = top_m.with_mark(frame, edges, column=INCLUDED).filter(INCLUDED).collect()
    expected = []
    for stratum, budget in enumerate(budgets):
        left = budget
        for key, sample_key in sorted_rows(list(keys)):
            at = (sample_key >> 32) * 3 + (sample_key & 0xFFFFFFFF)
            if strata[at] != stratum:
                continue
            left -= costs[at]
            if left < 0:
                assert edges[stratum].first_excluded == RowPosition(key, sample_key)
                break
            expected.append(sample_key)
        else:
            assert edges[stratum].first_excluded is None
    assert sample_keys(included) == sorted(expected)


@dataclass(frozen=True)
class CountedPasses(FrameChunks):
    """Chunks of three rows; counts the passes."""

    passes: list[int] = field(default_factory=list)

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        self.passes.append(1)
        rows = self.rows.collect()
        yield from (work(rows[first : first + 3].lazy()) for first in range(0, len(rows), 3))


def test_the_number_of_passes_and_pending_rows_do_not_grow_with_strata_and_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged = []
    summed = radix._sum_counts
    monkeypatch.setattr(radix, "_MAX_PENDING_ROWS", 10)
    monkeypatch.setattr(
        radix, "_sum_counts", lambda rows: (merged.append(len(rows.collect())), summed(rows))[1]
    )
    frame = frame_of([float(i % 4) for i in range(400)])
    frame = frame.with_columns((pl.int_range(400) // 4 % 20).cast(pl.UInt32).alias(STRATUM))
    rows = CountedPasses(frame)
    # All of stratum 0, nothing of stratum 1, all rows with the largest key of the others.
    edges = radix.find_edges(rows, {0: 20, 1: 0} | dict.fromkeys(range(2, 20), 5))
    included = top_m.with_mark(frame, edges, column=INCLUDED).filter(INCLUDED).collect()
    counts = dict(included.group_by(STRATUM).len().iter_rows())
    assert counts == {0: 20} | dict.fromkeys(range(2, 20), 5)
    assert len(rows.passes) == 3
    # Twenty strata with four keys each.
    assert max(merged) < 2 * 80 + 10
