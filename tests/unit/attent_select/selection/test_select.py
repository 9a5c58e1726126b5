"""select(): exactly m rows, independent of how the losses are stored; errors and eligibility."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import Composition, select
from attent_select.errors import InputError
from attent_select.strategies.hard import Hard
from attent_select.strategies.soft import Soft
from attent_select.strategies.uniform import Uniform
from attent_select.strategy import Strategy

LOSSES = st.lists(
    st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, 1.0])),
    min_size=1,
    max_size=60,
)


def catalog(losses: list[float | None] | np.ndarray, *, rows_per_shard: int = 7) -> pl.LazyFrame:
    position = np.arange(len(losses), dtype=np.uint32)
    return pl.LazyFrame(
        {
            "shard_id": position // np.uint32(rows_per_shard),
            "row": position % np.uint32(rows_per_shard),
            "loss": pl.Series(losses, dtype=pl.Float32, strict=False),
        }
    )


def ids_of(rows: pl.LazyFrame) -> list[tuple[int, int]]:
    return sorted(rows.collect().select("shard_id", "row").rows())


@given(losses=LOSSES, data=st.data())
def test_hard_selects_the_largest_finite_losses_and_breaks_ties_by_sample_key(
    losses: list[float | None], data: st.DataObject
) -> None:
    finite = [
        (i // 7, i % 7, loss + 0.0)
        for i, loss in enumerate(losses)
        if loss is not None and np.isfinite(loss)
    ]
    m = data.draw(st.integers(0, len(finite)))
    selection = select(catalog(losses), strategy=Hard(), num_samples=m)
    expected = sorted(finite, key=lambda r: (-r[2], r[0], r[1]))[:m]
    assert ids_of(selection.rows) == sorted((shard, row) for shard, row, _ in expected)
    assert selection.total == len(losses)
    assert selection.eligible == len(finite)
    assert selection.threshold == (expected[-1][2] if expected else None)


@pytest.mark.parametrize("strategy", [Uniform(), Soft()], ids=lambda s: type(s).__name__)
def test_seed_and_round_each_change_a_random_selection(strategy: Strategy) -> None:
    losses = catalog(np.random.default_rng(3).gamma(1, 1, 500))
    first = select(losses, strategy=strategy, ratio=0.5, seed=0, round_number=0)
    for seed, round_number in ((1, 0), (0, 1)):
        other = select(losses, strategy=strategy, ratio=0.5, seed=seed, round_number=round_number)
        assert ids_of(other.rows) != ids_of(first.rows)


def test_soft_prefers_large_losses_and_a_low_temperature_makes_it_hard() -> None:
    losses = catalog(np.random.default_rng(5).gamma(1, 1, 3000))
    mean = lambda strategy: (  # noqa: E731
        select(losses, strategy=strategy, ratio=0.2)
        .rows.join(losses, on=["shard_id", "row"])
        .select(pl.col("loss").mean())
        .collect()
        .item()
    )
    uniform, warm, cool, hard = (
        mean(s) for s in (Uniform(), Soft(temperature=2), Soft(temperature=0.5), Hard())
    )
    assert uniform < warm < cool < hard
    cold = select(losses, strategy=Soft(temperature=1e-9, clip_high=1.0), ratio=0.2)
    assert ids_of(cold.rows) == ids_of(select(losses, strategy=Hard(), ratio=0.2).rows)


def test_where_limits_eligibility_but_not_the_rows_that_the_ratio_refers_to() -> None:
    losses = catalog(np.arange(70)).with_columns(source=pl.col("shard_id") % 2)
    selection = select(
        losses, strategy=Hard(), ratio=0.5, composition=Composition(where="source = 1")
    )
    assert (selection.total, selection.eligible, selection.num_samples) == (70, 35, 35)
    assert {shard % 2 for shard, _ in ids_of(selection.rows)} == {1}


@pytest.mark.parametrize(
    ("where", "eligible"),
    [
        ("loss < 2.5", 2),
        ("loss in (1, 2.5, 4)", 2),
        ("loss between 0.5 and 1.5 or source like 'A%'", 3),
        ("case when row % 2 = 0 then loss > 1.5 else abs(loss) >= 2 end", 3),
        ("lower(source) = 'len'", 2),
        ('"Len" = 1', 4),
    ],
)
def test_a_condition_can_be_any_sql_on_a_single_row(where: str, eligible: int) -> None:
    losses = catalog([1, 2, 3, 4]).with_columns(source=pl.Series(["Len", "Len", "A", "A"]), Len=1)
    selection = select(losses, strategy=Hard(), num_samples=1, composition=Composition(where=where))
    assert selection.eligible == eligible


@pytest.mark.parametrize(
    "where",
    [
        "loss > avg(loss)",
        "sum(loss) > 1",
        "count(*) > 1",
        "row_number() over (order by loss) < 3",
        "lag(loss) over (order by row) > 1",
        "loss > quantile_cont(loss, 0.5)",
        "loss > corr(loss, row)",
    ],
)
def test_a_condition_on_several_rows_is_rejected(where: str) -> None:
    with pytest.raises(InputError, match="compares several rows"):
        select(catalog([1, 2]), strategy=Hard(), ratio=1, composition=Composition(where=where))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 6}, "6 samples requested, but only 4 are eligible"),
        ({"num_samples": -1}, "must not be negative, got -1"),
        ({"ratio": 0.0}, "outside"),
        ({"ratio": 1.5}, "outside"),
        ({}, "exactly one of num_samples, ratio and num_units"),
        (
            {"ratio": 0.5, "composition": Composition(where="los > 1")},
            "unknown column 'los', did you mean loss",
        ),
        ({"ratio": 0.5, "composition": Composition(where="loss +")}, "is not an SQL"),
        ({"ratio": 0.5, "composition": Composition(where="loss + 1")}, "expected a condition"),
        (
            {
                "ratio": 0.5,
                "composition": Composition(where="row in (select row from read_csv('x'))"),
            },
            "not allowed",
        ),
    ],
)
def test_invalid_arguments_are_input_errors(arguments: dict[str, object], message: str) -> None:
    losses = catalog([1, 2, None, 3, 4]).with_columns(tags=pl.lit([1]))
    with pytest.raises(InputError, match=message):
        select(losses, strategy=Hard(), **arguments)  # type: ignore[arg-type]


def test_a_loss_column_is_required_only_if_the_strategy_reads_it() -> None:
    bare = catalog([1, 2, 3]).drop("loss")
    with pytest.raises(InputError, match="missing column loss: the losses have shard_id, row"):
        select(bare, strategy=Hard(), ratio=0.5)
    assert len(select(bare, strategy=Uniform(), num_samples=2).rows.collect()) == 2


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"temperature": float("nan")}, {"clip_low": 0.9, "clip_high": 0.5}],
)
def test_soft_rejects_invalid_settings(settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Soft(**settings)


def test_keywords_inside_quotes_are_allowed() -> None:
    losses = catalog([1, 2, 3, 4]).with_columns(
        source=pl.Series(["from web", "x", "x", "from web"])
    )
    composition = Composition(where="source = 'from web'")
    assert select(losses, strategy=Hard(), num_samples=2, composition=composition).eligible == 2
    for trick in ("source = E'\\' or row in (select 1) --'", "source = '' /* ' */ or select"):
        with pytest.raises(InputError, match="not allowed"):
            select(losses, strategy=Hard(), ratio=0.5, composition=Composition(where=trick))


@pytest.mark.parametrize("strategy", [Hard(), Soft(), Uniform()], ids=lambda s: type(s).__name__)
def test_other_number_types_select_the_same_rows(strategy: Strategy) -> None:
    losses = catalog(np.random.default_rng(6).gamma(1, 1, 200).astype(np.float32))
    expected = select(losses, strategy=strategy, ratio=0.2)
    wider = losses.with_columns(
        pl.col("shard_id").cast(pl.Int64), pl.col("row").cast(pl.UInt16), pl.col("loss").cast(float)
    )
    assert ids_of(select(wider, strategy=strategy, ratio=0.2).rows) == ids_of(expected.rows)


@pytest.mark.parametrize("strategy", [Hard(), Soft()], ids=lambda s: type(s).__name__)
def test_losses_beyond_float32_are_infinite_and_not_eligible(strategy: Strategy) -> None:
    losses = catalog([0.0] * 20).with_columns(
        loss=pl.Series([1e300, -1e300, *map(float, range(18))])
    )
    selection = select(losses, strategy=strategy, num_samples=5)
    assert selection.eligible == 18
    assert len(selection.rows.collect()) == 5
    assert (0, 0) not in ids_of(selection.rows)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("row", [0, -1, 2], "from -1 to 2"),
        ("row", [0, 1, 1 << 32], "expected u32"),
        ("shard_id", ["a", "b", "c"], "shard_id is String"),
        ("loss", ["a", "b", "c"], "loss is String"),
    ],
)
def test_columns_of_the_wrong_type_or_range_are_rejected(
    column: str, values: list[object], message: str
) -> None:
    losses = catalog([1, 2, 3]).with_columns(pl.Series(column, values))
    with pytest.raises(InputError, match=message):
        select(losses, strategy=Hard(), num_samples=1)


def test_a_row_without_a_row_number_is_not_eligible() -> None:
    losses = catalog([1, 2, 3]).with_columns(row=pl.Series([0, None, 2], dtype=pl.UInt32))
    with pytest.raises(InputError, match="only 2 are eligible"):
        select(losses, strategy=Hard(), num_samples=3)
    assert len(select(losses, strategy=Hard(), num_samples=2).rows.collect()) == 2


def test_soft_prefers_the_few_larger_losses_if_nearly_all_are_equal() -> None:
    losses = catalog([0.0] * 1985 + [1.0] * 15)
    rows = select(losses, strategy=Soft(temperature=0.01), num_samples=15).rows
    assert ids_of(rows) == [(i // 7, i % 7) for i in range(1985, 2000)]


@pytest.mark.parametrize("strategy", [Hard(), Uniform()], ids=lambda s: type(s).__name__)
def test_rows_without_num_units_are_not_eligible_for_a_budget_in_units(strategy: Strategy) -> None:
    units = pl.Series([2, None, 2, 2], dtype=pl.UInt32)
    losses = catalog([1, 4, 3, 2]).with_columns(num_units=units)
    selection = select(losses, strategy=strategy, num_units=100)
    assert ids_of(selection.rows) == [(0, 0), (0, 2), (0, 3)]
    assert selection.num_samples == selection.eligible == 3


def test_the_guard_ignores_rows_without_a_loss() -> None:
    losses = catalog([0.0, 1.0, 2.0, 3.0, *[None] * 4, *[float("nan")] * 4])
    losses = losses.with_columns(visits=pl.lit(3, dtype=pl.UInt16))
    guard = Composition(max_visits=3, hard_quantile=0.5)
    by_loss = select(losses, strategy=Hard(), num_samples=2, composition=guard)
    assert ids_of(by_loss.rows) == [(0, 0), (0, 1)]
    # NaN counts as hard; a null does not.
    uniform = select(losses, strategy=Uniform(), num_samples=6, composition=guard)
    assert uniform.eligible == 6
