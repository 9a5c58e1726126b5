"""Selecting by an expression over annotations: keys, duplicates, exploration and its origin."""

import numpy as np
import polars as pl
import pytest

from attent_select.errors import InputError
from attent_select.schema import INDEX, INDEX_ORIGIN
from attent_select.selection.blocks import select_blocks
from attent_select.selection.composition import Composition
from attent_select.selection.select import select
from attent_select.strategies.hard import Hard
from attent_select.strategies.key import Key
from attent_select.strategies.learnability import Learnability
from attent_select.strategies.uniform import Uniform

NUM_ROWS = 800


def annotated() -> pl.LazyFrame:
    """800 rows without losses, of which the last 400 are the most relevant."""
    row = np.arange(NUM_ROWS, dtype=np.uint32)
    return pl.LazyFrame(
        {
            "shard_id": row // 100,
            "row": row % 100,
            "relevance": pl.Series(row, dtype=pl.Float32),
            "units": pl.Series(row % 7, dtype=pl.UInt32),
            "copies_rank": pl.Series(row % 2, dtype=pl.Int64),
            "source": pl.Series(["book", "web"] * (NUM_ROWS // 2)),
        },
        schema_overrides={"shard_id": pl.UInt32, "row": pl.UInt32},
    )


def positions(rows: pl.DataFrame) -> list[int]:
    return (rows["shard_id"].cast(pl.Int64) * 100 + rows["row"]).to_list()


def test_the_largest_values_are_selected_and_an_eighth_is_drawn_from_the_others() -> None:
    selection = select(annotated(), strategy=Key("relevance"), num_samples=80)
    rows = selection.rows.collect()
    assert dict(rows.schema) == INDEX | INDEX_ORIGIN
    by_key, uniform = (rows.filter(pl.col("origin") == origin) for origin in (0, 1))
    assert positions(by_key) == list(range(NUM_ROWS - 70, NUM_ROWS))
    assert len(uniform) == 10
    assert max(positions(uniform)) < NUM_ROWS - 70
    assert selection.threshold == NUM_ROWS - 70


@pytest.mark.parametrize(
    ("strategy", "composition"),
    [
        (Key("relevance"), Composition(explore=0.0)),
        (Key("relevance"), Composition(explore=1.0)),
        (Uniform(), Composition()),
    ],
)
def test_an_index_of_one_origin_does_not_name_it(
    strategy: Key | Uniform, composition: Composition
) -> None:
    selection = select(annotated(), strategy=strategy, num_samples=80, composition=composition)
    assert dict(selection.rows.collect().schema) == INDEX


def test_a_key_with_the_loss_does_not_explore_unless_told() -> None:
    rows = annotated().with_columns(loss=pl.col("relevance") / 100)
    by_key = select(rows, strategy=Key("loss - relevance / 200"), num_samples=80).rows.collect()
    by_hand = select(rows, strategy=Hard(), num_samples=80).rows.collect()
    assert by_key.equals(by_hand)
    rows = rows.with_columns(reference_loss=pl.lit(0.5, pl.Float32))
    learnable = select(rows, strategy=Learnability(), num_samples=80).rows.collect()
    assert learnable.equals(
        select(rows, strategy=Key("loss - reference_loss"), num_samples=80).rows.collect()
    )


def test_only_the_first_of_each_cluster_of_duplicates_is_eligible() -> None:
    with_ = Composition(distinct="copies")
    selection = select(annotated(), strategy=Key("relevance"), ratio=0.2, composition=with_)
    assert selection.eligible == NUM_ROWS // 2
    assert all(position % 2 == 0 for position in positions(selection.rows.collect()))


def test_unsigned_columns_do_not_wrap_in_a_key() -> None:
    selection = select(
        annotated(), strategy=Key("3 - units"), num_samples=115, composition=Composition(explore=0)
    )
    assert selection.threshold == 3
    assert all(position % 7 == 0 for position in positions(selection.rows.collect()))


def test_gumbel_noise_prefers_large_values_and_depends_on_the_seed() -> None:
    def draw(temperature: float, seed: int) -> list[int]:
        strategy = Key("relevance", noise="gumbel", temperature=temperature)
        explored = Composition(explore=0.0)
        return positions(
            select(
                annotated(), strategy=strategy, num_samples=80, seed=seed, composition=explored
            ).rows.collect()
        )

    assert draw(0.001, 0) == list(range(NUM_ROWS - 80, NUM_ROWS))
    assert NUM_ROWS / 2 < float(np.mean(draw(200, 0))) < NUM_ROWS - 80
    assert draw(200, 0) == draw(200, 0) != draw(200, 1)


def test_rows_without_a_finite_value_are_not_eligible() -> None:
    value = pl.when(pl.col("row") == 0).then(float("nan")).when(pl.col("row") == 1).then(None)
    rows = annotated().with_columns(relevance=value.otherwise(pl.col("relevance")))
    selection = select(rows, strategy=Key("relevance"), ratio=0.5)
    assert selection.eligible == NUM_ROWS - 2 * 8


def test_whole_blocks_are_selected_by_the_mean_of_the_expression() -> None:
    blocks = select_blocks(
        annotated(), granularity="shard", strategy=Key("-relevance"), num_samples=200
    )
    assert positions(blocks.selection.rows.collect()) == list(range(200))


def test_quotas_hold_for_each_stratum() -> None:
    with_ = Composition(by="source", quotas={"book": 0.75, "web": 0.25})
    rows = select(annotated(), strategy=Key("relevance"), num_samples=80, composition=with_)
    assert sum(position % 2 == 0 for position in positions(rows.rows.collect())) == 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expression": "relevance +"}, "is not an SQL expression"),
        ({"expression": "relevance", "noise": "normal"}, "expected none or gumbel"),
        ({"expression": "relevance", "temperature": 0}, "not a finite positive number"),
    ],
)
def test_settings_that_are_wrong_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Key(**settings)  # type: ignore[arg-type]


def test_a_strategy_is_given_by_name_and_rows_as_a_data_frame() -> None:
    rows = annotated().with_columns(loss=pl.col("relevance")).collect()
    selection = select(rows, strategy="hard", num_samples=3)
    assert positions(selection.rows.collect()) == [797, 798, 799]
    assert len(repr(selection)) < 200
