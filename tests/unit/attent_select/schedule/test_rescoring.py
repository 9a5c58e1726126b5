"""Which rows a partial round measures again."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.schedule.rescoring import Rescore, rows_near_threshold, stalest_shards
from attent_select.schema import INDEX

SHARDS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=30)


def ages(shards: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "shard_id": np.arange(len(shards), dtype=np.uint32),
            "num_rows": pl.Series([rows for rows, _ in shards], dtype=pl.UInt64),
            "measured_step": pl.Series([step for _, step in shards], dtype=pl.Float64),
        }
    )


@given(SHARDS, st.floats(0, 1), st.integers(0, 9))
def test_the_oldest_shards_are_taken_whole_and_only_the_last_is_cut(
    shards: list[tuple[int, int]], share: float, round_number: int
) -> None:
    total = sum(rows for rows, _ in shards)
    m = round(share * total)
    found = stalest_shards(ages(shards), num_samples=m, seed=3, round_number=round_number)
    taken = dict(found.iter_rows())
    assert sum(taken.values()) == m
    assert found["shard_id"].is_sorted()
    cut = [shard for shard, rows in taken.items() if rows < shards[shard][0]]
    assert len(cut) <= 1
    left = [step for shard, (_, step) in enumerate(shards) if shard not in taken]
    assert max((shards[shard][1] for shard in taken), default=0) <= min(left, default=3)


def test_equally_old_shards_come_in_another_order_each_round() -> None:
    alike = ages([(10, 0)] * 50)
    draws = [
        tuple(stalest_shards(alike, num_samples=100, seed=0, round_number=n)["shard_id"])
        for n in range(5)
    ]
    assert len(set(draws)) == 5
    assert draws[0] == tuple(
        stalest_shards(alike, num_samples=100, seed=0, round_number=0)["shard_id"]
    )


def test_rows_near_the_threshold_are_taken_and_a_fifth_is_drawn_from_the_others() -> None:
    losses = np.linspace(0, 10, 1001, dtype=np.float32)
    catalog = pl.LazyFrame({"shard_id": np.zeros(1001, np.uint32), "loss": losses}).with_columns(
        row=pl.int_range(1001, dtype=pl.UInt32)
    )
    draw = {"ratio": 0.3, "num_samples": 100, "seed": 0, "round_number": 2}
    rows = pl.concat(rows_near_threshold(catalog, **draw))["row"].to_numpy()
    assert len(rows) == 100
    near = np.abs(losses[rows] - 7.0) <= 0.41
    assert 80 <= near.sum() <= 84, "80 by nearness; a few of the 20 others happen to be near"
    assert losses[rows[~near]].min() < 3
    assert sorted(rows) == rows.tolist()
    assert pl.concat(rows_near_threshold(catalog, **draw))["row"].to_list() == rows.tolist()


@pytest.mark.parametrize("usable", [0, 5])
def test_rows_without_a_loss_are_never_near(usable: int) -> None:
    values = [1.0] * usable + [None, float("nan"), float("inf")]
    catalog = pl.LazyFrame(
        {"shard_id": [0] * len(values), "loss": pl.Series(values, dtype=pl.Float32)},
        schema_overrides={"shard_id": pl.UInt32},
    ).with_columns(row=pl.int_range(len(values), dtype=pl.UInt32))
    found = pl.concat(
        [
            pl.DataFrame(schema=INDEX),
            *rows_near_threshold(catalog, ratio=0.5, num_samples=8, seed=0, round_number=0),
        ]
    )
    assert found["row"].to_list() == list(range(usable))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "partial"}, "share: a partial round needs one, such as 0.1"),
        ({"kind": "full", "share": 0.5}, "share: full has none; expected kind partial or auto"),
        ({"kind": "none", "share": 0.5}, "share: none has none"),
        ({"kind": "partial", "share": 0.0}, r"share: 0.0 is outside \(0, 1\]"),
        ({"kind": "auto", "share": 1.5}, r"share: 1.5 is outside \(0, 1\]"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rescore(**settings)
