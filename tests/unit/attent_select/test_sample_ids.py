"""Detection of duplicate samples: in any order, across files, in bounded memory."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import select
from attent_select.errors import InputError
from attent_select.sample_ids import IdWatch, Runs, check_unique

Ids = list[tuple[int, int]]
IDS = st.tuples(st.integers(0, 2), st.integers(0, 30))


def table(ids: Ids) -> pl.LazyFrame:
    return pl.LazyFrame(ids, schema={"shard_id": pl.UInt32, "row": pl.UInt32}, orient="row")


@given(st.lists(IDS, unique=True), st.sampled_from([1, 3, 1 << 25]))
def test_unique_samples_in_any_order_pass(ids: Ids, max_sorted: int) -> None:
    check_unique(table(ids), max_sorted=max_sorted)


@given(st.lists(IDS, min_size=1, unique=True), st.data(), st.sampled_from([1, 3, 1 << 25]))
def test_a_duplicate_sample_is_found_at_any_position(
    ids: Ids, data: st.DataObject, max_sorted: int
) -> None:
    shard_id, row = data.draw(st.sampled_from(ids))
    place = data.draw(st.integers(0, len(ids)))
    ids = [*ids[:place], (shard_id, row), *ids[place:]]
    with pytest.raises(InputError, match=f"row {row} of shard {shard_id} occurs twice"):
        check_unique(table(ids), max_sorted=max_sorted)


def test_batches_that_share_a_key_are_not_confused_with_adjacent_batches() -> None:
    first = [(0, row) for row in range(200_000)]
    check_unique(pl.concat([table(first), table([(0, 200_000)])]))
    with pytest.raises(InputError, match="row 199999 of shard 0 occurs twice"):
        check_unique(pl.concat([table(first), table([(0, 199_999)])]))


def test_ids_of_other_types_and_null_ids_are_accepted() -> None:
    check_unique(pl.LazyFrame({"shard_id": [0, 0, None, None], "row": [1, 0, 0, 0]}))


KINDS = {"shard_id": pl.UInt32, "row": pl.UInt32, "loss": pl.Float32}


@pytest.mark.parametrize("kind", [pl.DataFrame, pl.LazyFrame])
@pytest.mark.parametrize("ids", [pl.UInt32, pl.Int64])
@pytest.mark.parametrize("rows", [[(0, 0), (0, 0)], [(0, 1), (1, 0), (0, 1)], [(7, 3)] * 5])
def test_select_refuses_a_table_with_a_duplicate_sample(
    kind: Any, ids: Any, rows: list[tuple[int, int]]
) -> None:
    table = [(*row, float(number)) for number, row in enumerate(rows)]
    frame = kind(table, schema=KINDS | {"shard_id": ids, "row": ids}, orient="row")
    for strategy in ("hard", "soft", "uniform"):
        with pytest.raises(InputError, match="occurs twice"):
            select(frame, strategy=strategy, num_samples=1)


@given(st.lists(IDS | st.tuples(st.just(1), st.integers(2**32 - 3, 2**32 - 1))), st.data())
def test_runs_have_the_ids_of_their_rows_in_order(ids: Ids, data: st.DataObject) -> None:
    rows = table(ids).collect()
    assert ids == [] or Runs.of(rows).ids().rows() == ids
    cut = data.draw(st.integers(0, len(ids)))
    parts = [(range(cut), ids[:cut]), (range(cut, len(ids)), ids[cut:])]
    watch = IdWatch()
    passed = watch.over((place, Runs.of(table(part).collect()), part) for place, part in parts)
    assert list(passed) == [ids[:cut], ids[cut:]]
    for place, part in parts:
        runs = watch.runs(place)
        assert (runs is None) == (not part)
        assert runs is None or runs.ids().rows() == part
    if len(set(ids)) < len(ids):
        with pytest.raises(InputError, match="occurs twice"):
            check_unique(table(ids), watch=watch)
    else:
        check_unique(table(ids), watch=watch)


@given(st.lists(IDS, min_size=1), st.data())
def test_runs_have_the_ids_of_chosen_rows(ids: Ids, data: st.DataObject) -> None:
    runs = Runs.of(table(ids).collect())
    chosen = sorted(data.draw(st.sets(st.sampled_from(range(len(ids))))))
    for kind in (np.uint32, np.int64):
        assert runs.ids_at(np.array(chosen, kind)).rows() == [ids[row] for row in chosen]
    start = data.draw(st.integers(0, len(ids) - 1))
    stop = data.draw(st.integers(start + 1, len(ids) + 2))
    keys = [shard_id << 32 | row for shard_id, row in ids[start:stop]]
    assert runs.keys(slice(start, stop)).tolist() == keys


def test_a_pass_that_was_not_finished_is_not_trusted() -> None:
    watch = IdWatch()
    rows = table([(0, 0), (0, 1)]).collect()
    next(watch.over(iter([(range(2), Runs.of(rows), None), (range(2, 4), Runs.of(rows), None)])))
    assert watch.sequences is None
    assert watch.runs(range(2)) is None
