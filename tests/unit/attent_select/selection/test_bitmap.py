"""Bitmap: the bits of any rows, whatever the chunks in which they were added."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.selection import chunks
from attent_select.selection.chunks import Bitmap

MASKS = st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=6)


def bitmap_of(masks: list[list[bool]]) -> Bitmap:
    rows = Bitmap()
    for mask in masks:
        rows.add(pl.Series(mask, dtype=pl.Boolean))
    return rows


@given(masks=MASKS, data=st.data())
def test_the_bits_of_any_rows_are_returned(masks: list[list[bool]], data: st.DataObject) -> None:
    bits = [bit for mask in masks for bit in mask]
    rows = bitmap_of(masks)
    assert len(rows) == len(bits)
    start = data.draw(st.integers(0, len(bits)))
    stop = data.draw(st.integers(start, len(bits)))
    assert rows.mask(range(start, stop)).to_list() == bits[start:stop]


@given(masks=MASKS, data=st.data())
def test_cleared_bits_are_false_and_no_others(masks: list[list[bool]], data: st.DataObject) -> None:
    bits = [bit for mask in masks for bit in mask]
    cleared = data.draw(st.sets(st.sampled_from(range(len(bits))))) if bits else set()
    rows = bitmap_of(masks)
    rows.clear(np.array(sorted(cleared), np.uint64))
    expected = [bit and position not in cleared for position, bit in enumerate(bits)]
    assert rows.mask(range(len(bits))).to_list() == expected


@given(masks=MASKS, data=st.data())
def test_values_are_those_of_the_bits_that_are_set(
    masks: list[list[bool]], data: st.DataObject
) -> None:
    bits = [bit for mask in masks for bit in mask]
    rows, first = Bitmap(), 0
    for mask in masks:
        values = [first + i for i, bit in enumerate(mask) if bit]
        rows.add(pl.Series(mask, dtype=pl.Boolean), values=pl.Series(values, dtype=pl.Int64))
        first += len(mask)
    assert rows.has_values
    cleared = data.draw(st.sets(st.sampled_from(range(len(bits))))) if bits else set()
    rows.clear(np.array(sorted(cleared), np.uint64))
    start = data.draw(st.integers(0, len(bits)))
    stop = data.draw(st.integers(start, len(bits)))
    expected = [i for i in range(start, stop) if bits[i] and i not in cleared]
    assert rows.values(range(start, stop)).to_list() == expected


def test_too_many_values_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_MAX_VALUES", 2)
    rows = Bitmap()
    rows.add(pl.Series([True, False, True]), values=pl.Series([1.0, 2.0]))
    assert rows.has_values
    rows.add(pl.Series([True]), values=pl.Series([3.0]))
    assert not rows.has_values
    rows.clear(np.array([0, 3], np.uint64))
    assert rows.mask(range(4)).to_list() == [False, False, True, False]
    assert not bitmap_of([[True]]).has_values


def test_bits_of_too_many_rows_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_MAX_BITS", 16)
    rows = bitmap_of([[True] * 10, [True] * 6])
    assert rows.is_complete
    rows.add(pl.Series([True]))
    assert (rows.is_complete, len(rows)) == (False, 17)
