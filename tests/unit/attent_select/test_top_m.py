"""The search for the cutoff, against a full sort of the same rows."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import top_m

KEYS = st.one_of(
    st.floats(allow_nan=False, width=32),
    st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, 5e-324, -5e-324]),
)


def frame_of(keys: list[float]) -> pl.LazyFrame:
    return pl.LazyFrame(
        {
            "shard_id": np.arange(len(keys), dtype=np.uint32) // 3,
            "row": np.arange(len(keys), dtype=np.uint32) % 3,
            "key": np.array(keys, dtype=np.float64),
        }
    )


def reference(keys: list[float]) -> list[tuple[float, int]]:
    """(key, sample_key) by descending key, then ascending sample_key."""
    rows = [(key + 0.0, (i // 3 << 32) | i % 3) for i, key in enumerate(keys)]
    return sorted(rows, key=lambda row: (-row[0], row[1]))


@pytest.fixture(params=[1, 4, 1 << 20], ids=lambda rows: f"edge of {rows} rows")
def edge_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A small edge bucket makes the descent go through every level, even on few rows."""
    monkeypatch.setattr(top_m, "_EDGE_ROWS", request.param)
    return request.param


@given(keys=st.lists(KEYS, min_size=1, max_size=40), data=st.data())
def test_every_rank_is_the_row_that_a_full_sort_puts_there(
    keys: list[float], data: st.DataObject
) -> None:
    ranks = data.draw(st.lists(st.integers(0, len(keys) - 1), min_size=1, max_size=3))
    edge = data.draw(st.sampled_from([1, 4, 1 << 20]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_m, "_EDGE_ROWS", edge)
        ordered = top_m.with_order(frame_of(keys), pl.col("key"))
        found = top_m.positions(ordered, ranks)
    expected = reference(keys)
    assert [(p.key, p.sample_key) for p in found] == [expected[rank] for rank in ranks]


def test_when_all_keys_are_equal_the_sample_keys_decide(edge_rows: int) -> None:
    ordered = top_m.with_order(frame_of([2.5] * 30), pl.col("key"))
    (last,) = top_m.positions(ordered, [9])
    chosen = ordered.filter(last.includes()).collect()
    assert chosen.select("shard_id", "row").rows() == [(i // 3, i % 3) for i in range(10)]


def test_the_cutoff_keeps_exactly_the_rows_up_to_it(edge_rows: int) -> None:
    keys = np.random.default_rng(0).normal(size=500).round(1).tolist()
    ordered = top_m.with_order(frame_of(keys), pl.col("key"))
    (last,) = top_m.positions(ordered, [123])
    chosen = ordered.filter(last.includes()).collect()
    assert sorted(chosen[top_m.SAMPLE_KEY]) == sorted(k for _, k in reference(keys)[:124])


def test_positions_compare_as_their_rows_do() -> None:
    ordered = top_m.with_order(frame_of([1.0, 3.0, -2.0, 3.0]), pl.col("key"))
    found = top_m.positions(ordered, [0, 1, 2, 3])
    assert found == sorted(found)
    assert [p.key for p in found] == [3.0, 3.0, 1.0, -2.0]
