"""The search for the cut, against a full sort of the same rows, whatever the pilot says."""

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
from attent_select.selection.chunks import Whole

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
            top_m.KEY: np.array(keys, dtype=np.float64),
            radix.COST: np.ones(len(keys), dtype=np.uint64),
            radix.STRATUM: np.zeros(len(keys), dtype=np.uint32),
        }
    )


def reference(keys: list[float]) -> list[tuple[float, int]]:
    """(key, sample_key) by descending key, then ascending sample_key."""
    rows = [(key, (i // 3 << 32) | i % 3) for i, key in enumerate(keys)]
    return sorted(rows, key=lambda row: (-row[0], row[1]))


def check_cut(keys: list[float], num_selected: int, *, pilot: top_m.Pilot | None) -> None:
    expected = reference(keys)
    rows = frame_of(keys)
    if pilot is None:
        cut = top_m.cuts(Whole(rows), {0: num_selected})[0]
    else:
        cut, num_rows = top_m.cut(Whole(rows), num_selected, pilot=pilot)
        assert num_rows == len(keys)
    assert cut.last is not None
    assert (cut.last.key, cut.last.sample_key) == expected[num_selected - 1]
    if num_selected < len(keys):
        assert cut.first_excluded is not None
        excluded = (cut.first_excluded.key, cut.first_excluded.sample_key)
        assert excluded == expected[num_selected]
    else:
        assert cut.first_excluded is None
    kept = top_m.with_cuts(rows, {0: cut}).filter(top_m.INCLUDED).collect()
    assert sample_keys(kept) == sorted(key for _, key in expected[:num_selected])


def sample_keys(rows: pl.DataFrame) -> list[int]:
    return sorted((shard << 32) | row for shard, row in rows.select("shard_id", "row").iter_rows())


@given(
    keys=st.lists(KEYS, min_size=1, max_size=40),
    hints=st.none() | st.lists(KEYS, max_size=10),
    data=st.data(),
)
def test_the_cut_is_exact_whatever_the_pilot_says(
    keys: list[float], hints: list[float] | None, data: st.DataObject
) -> None:
    num_selected = data.draw(st.integers(1, len(keys)))
    stands_for = data.draw(st.integers(1, 100))
    limit = data.draw(st.sampled_from([1, 3, 1000]))
    pilot = None if hints is None else top_m.Pilot.of(pl.Series(hints, dtype=pl.Float64),
                                                      num_rows=stands_for)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_m, "_MAX_BRACKET_ROWS", limit)
        check_cut(keys, num_selected, pilot=pilot)


def test_a_good_pilot_finds_the_cut_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).normal(size=100_000)
    pilot = top_m.Pilot.of(pl.Series(keys[::10]), num_rows=len(keys))
    monkeypatch.setattr(top_m, "_MAX_GUESSES", 1)
    monkeypatch.setattr(top_m, "cuts", None)
    for num_selected in (1, 20_000, 99_999):
        check_cut(keys.tolist(), num_selected, pilot=pilot)


def test_a_pilot_from_unlike_rows_is_corrected_by_what_was_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = np.random.default_rng(0).normal(size=100_000)
    unlike = keys[::10] + 0.1
    monkeypatch.setattr(top_m, "cuts", None)
    check_cut(keys.tolist(), 20_000, pilot=top_m.Pilot.of(pl.Series(unlike), num_rows=100_000))
    monkeypatch.setattr(top_m, "_MAX_GUESSES", 1)
    with pytest.raises(TypeError):  # the first guess alone does not do: the case is a real one
        check_cut(keys.tolist(), 20_000, pilot=top_m.Pilot.of(pl.Series(unlike), num_rows=100_000))


def test_a_bracket_with_too_many_rows_is_never_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_m, "_MAX_BRACKET_ROWS", 100)
    pilot = top_m.Pilot.of(pl.Series([1.0] * 50), num_rows=1000)
    counted = top_m._count(Whole(frame_of([1.0] * 1000)), low=1.0, high=1.0)
    assert (counted.num_rows, counted.above, counted.complete) == (1000, 0, False)
    assert len(counted.keys) == 0
    check_cut([1.0] * 1000, 400, pilot=pilot)


def test_more_rows_than_there_are_is_an_input_error_that_says_how_many() -> None:
    for hints in ([], [1.0]):
        pilot = top_m.Pilot.of(pl.Series(hints, dtype=pl.Float64), num_rows=5)
        with pytest.raises(InputError, match="6 samples asked for, but only 5 are eligible"):
            top_m.cut(Whole(frame_of([1.0] * 5)), 6, pilot=pilot)


STRATA = st.lists(st.tuples(KEYS, st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=40)


@given(rows=STRATA, budgets=st.lists(st.integers(0, 60), min_size=3, max_size=3), data=st.data())
def test_every_stratum_ends_where_its_budget_does(
    rows: list[tuple[float, int, int]], budgets: list[int], data: st.DataObject
) -> None:
    keys, strata, costs = zip(*rows, strict=True)
    frame = frame_of(list(keys)).with_columns(
        pl.Series(radix.STRATUM, strata, dtype=pl.UInt32),
        pl.Series(radix.COST, costs, dtype=pl.UInt64),
    )
    # A small edge bucket makes the descent go through every level, even on few rows.
    edge = data.draw(st.sampled_from([1, 4, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix, "_EDGE_ROWS", edge)
        patch.setattr(radix, "_WAITING_ROWS", edge)
        found = top_m.cuts(Whole(frame), dict(enumerate(budgets)))
    kept = top_m.with_cuts(frame, found).filter(top_m.INCLUDED).collect()
    expected = []
    for stratum, budget in enumerate(budgets):
        left = budget
        for key, sample_key in reference(list(keys)):
            at = (sample_key >> 32) * 3 + (sample_key & 0xFFFFFFFF)
            if strata[at] != stratum:
                continue
            left -= costs[at]
            if left < 0:
                assert found[stratum].first_excluded == top_m.Position(key, sample_key)
                break
            expected.append(sample_key)
        else:
            assert found[stratum].first_excluded is None
    assert sample_keys(kept) == sorted(expected)


@dataclass(frozen=True)
class Cut(Whole):
    """In chunks of three rows; counts the passes."""

    passes: list[int] = field(default_factory=list)

    def run(self, work: Callable[[pl.LazyFrame], Result]) -> Iterator[Result]:
        self.passes.append(1)
        rows = self.rows.collect()
        yield from (work(rows[first : first + 3].lazy()) for first in range(0, len(rows), 3))


def test_passes_do_not_grow_with_the_strata_nor_what_waits_with_the_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged = []
    summed = radix._summed
    monkeypatch.setattr(radix, "_WAITING_ROWS", 10)
    monkeypatch.setattr(
        radix, "_summed", lambda rows: (merged.append(len(rows.collect())), summed(rows))[1]
    )
    frame = frame_of([float(i % 4) for i in range(400)])
    frame = frame.with_columns((pl.int_range(400) // 4 % 20).cast(pl.UInt32).alias(radix.STRATUM))
    rows = Cut(frame)
    # All of stratum 0, nothing of stratum 1, the whole of the largest key of the others.
    found = top_m.cuts(rows, {0: 20, 1: 0} | dict.fromkeys(range(2, 20), 5))
    kept = top_m.with_cuts(frame, found).filter(top_m.INCLUDED).collect()
    counts = dict(kept.group_by(radix.STRATUM).len().iter_rows())
    assert counts == {0: 20} | dict.fromkeys(range(2, 20), 5)
    assert len(rows.passes) == 3
    # Twenty strata with four keys each.
    assert max(merged) < 2 * 80 + 10
