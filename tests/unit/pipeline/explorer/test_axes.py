"""Axes: every value has one place, whatever it is."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.explorer.axes import Axis
from pipeline.explorer.source import Column

NUMBER = Column("x", "number", "annotation")
CATEGORY = Column("x", "category", "annotation")
EDGES = (-1.0, 0.0, 1.0, 2.0)


@given(st.lists(st.none() | st.floats(width=32)))
def test_a_number_is_in_its_bin_or_an_end_bin_and_none_and_nan_in_the_last_place(
    values: list[float | None],
) -> None:
    axis = Axis(NUMBER, edges=EDGES)
    rows = pl.DataFrame({"x": values}, schema={"x": pl.Float32})
    for value, place in zip(values, rows.select(axis.place()).to_series(), strict=True):
        if value is None or math.isnan(value):
            assert place == 3
        elif -1 < value < 2:
            assert EDGES[place] <= value + 1e-6
            assert value - 1e-6 <= EDGES[place + 1]
        else:
            assert place == (0 if value <= -1 else 2)


@given(st.lists(st.none() | st.text(max_size=2)))
def test_a_category_has_its_place_and_unknown_ones_share_one(values: list[str | None]) -> None:
    axis = Axis(CATEGORY, categories=("a", "b"), with_others=True)
    rows = pl.DataFrame({"x": values}, schema={"x": pl.String})
    places = rows.select(axis.place()).to_series().to_list()
    expected = {"a": 0, "b": 1, None: 3}
    assert places == [expected.get(value, 2) for value in values]


@pytest.mark.parametrize("dtype", [pl.UInt8, pl.Int64, pl.UInt32])
def test_whole_numbers_of_any_type_have_their_bins(dtype: type[pl.DataType]) -> None:
    column = Column("x", "number", "losses", is_integer=True)
    axis = Axis(column, edges=(-0.5, 0.5, 1.5, 2.5))
    rows = pl.DataFrame({"x": [0, 1, 2, 200]}, schema={"x": dtype})
    assert rows.select(axis.place()).to_series().to_list() == [0, 1, 2, 2]
    assert axis.names == ["0", "1", "2"]


def test_a_column_without_values_has_one_place_for_nothing() -> None:
    rows = pl.DataFrame({"x": [None, None]}, schema={"x": pl.Float32})
    axis = Axis(NUMBER)
    assert axis.num_places == 1
    assert rows.select(axis.place()).to_series().to_list() == [0, 0]
