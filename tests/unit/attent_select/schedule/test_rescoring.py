"""Partial rescoring: which rows are measured again."""

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
def test_the_stalest_shards_are_rescored_whole_except_the_last(
    shards: list[tuple[int, int]], share: float, round_number: int
) -> None:
    total = sum(rows for rows, _ in shards)
    m = round(share * total)
    shards_to_score = stalest_shards(ages(shards), num_samples=m, seed=3, round_number=round_number)
    rows_of_shard = dict(shards_to_score.iter_rows())
    assert sum(rows_of_shard.values()) == m
    assert shards_to_score["shard_id"].is_sorted()
    partial = [shard for shard, rows in rows_of_shard.items() if rows < shards[shard][0]]
    assert len(partial) <= 1
    other_steps = [step for shard, (_, step) in enumerate(shards) if shard not in rows_of_shard]
    latest = max((shards[shard][1] for shard in rows_of_shard), default=0)
    assert latest <= min(other_steps, default=3)


def test_the_order_of_equally_old_shards_changes_each_round() -> None:
    equally_old = ages([(10, 0)] * 50)
    draws = [
        tuple(stalest_shards(equally_old, num_samples=100, seed=0, round_number=n)["shard_id"])
        for n in range(5)
    ]
    assert len(set(draws)) == 5
    assert draws[0] == tuple(
        stalest_shards(equally_old, num_samples=100, seed=0, round_number=0)["shard_id"]
    )


def test_four_fifths_of_the_rows_are_near_the_threshold_and_one_fifth_is_random() -> None:
    losses = np.linspace(0, 10, 1001, dtype=np.float32)
    catalog = pl.LazyFrame({"shard_id": np.zeros(1001, np.uint32), "loss": losses}).with_columns(
        row=pl.int_range(1001, dtype=pl.UInt32)
    )
    draw = {"ratio": 0.3, "num_samples": 100, "seed": 0, "round_number": 2}
    rows = pl.concat(rows_near_threshold(catalog, **draw))["row"].to_numpy()
    assert len(rows) == 100
    near = np.abs(losses[rows] - 7.0) <= 0.41
    assert 80 <= near.sum() <= 84, "80 by distance; a few of the 20 random ones happen to be near"
    assert losses[rows[~near]].min() < 3
    assert sorted(rows) == rows.tolist()
    assert pl.concat(rows_near_threshold(catalog, **draw))["row"].to_list() == rows.tolist()


@pytest.mark.parametrize("usable", [0, 5])
def test_rows_without_a_loss_are_never_near_the_threshold(usable: int) -> None:
    values = [1.0] * usable + [None, float("nan"), float("inf")]
    catalog = pl.LazyFrame(
        {"shard_id": [0] * len(values), "loss": pl.Series(values, dtype=pl.Float32)},
        schema_overrides={"shard_id": pl.UInt32},
    ).with_columns(row=pl.int_range(len(values), dtype=pl.UInt32))
    rows = pl.concat(
        [
            pl.DataFrame(schema=INDEX),
            *rows_near_threshold(catalog, ratio=0.5, num_samples=8, seed=0, round_number=0),
        ]
    )
    assert rows["row"].to_list() == list(range(usable))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "partial"}, "share: required for kind partial, such as 0.1"),
        ({"kind": "full", "share": 0.5}, "share: not used by full; expected kind partial or auto"),
        ({"kind": "none", "share": 0.5}, "share: not used by none"),
        ({"kind": "partial", "share": 0.0}, r"share: 0.0 is outside \(0, 1\]"),
        ({"kind": "auto", "share": 1.5}, r"share: 1.5 is outside \(0, 1\]"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rescore(**settings)
