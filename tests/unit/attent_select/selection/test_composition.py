"""What surrounds a strategy: quotas, exploration, guards, budgets in units, weights."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select import Composition, select
from attent_select.errors import InputError
from attent_select.selection.quotas import allocate
from attent_select.strategies.hard import Hard
from attent_select.strategies.learnability import Learnability
from attent_select.strategies.soft import Soft
from attent_select.strategies.uniform import Uniform

AVAILABLE = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50), min_size=1)


def catalog(num_rows: int = 400) -> pl.LazyFrame:
    rng = np.random.default_rng(0)
    return pl.LazyFrame(
        {
            "shard_id": np.arange(num_rows, dtype=np.uint32) // 20,
            "row": np.arange(num_rows, dtype=np.uint32) % 20,
            "loss": rng.gamma(1, 1, num_rows).astype(np.float32),
            "num_units": rng.integers(1, 100, num_rows, dtype=np.uint32),
            "visits": rng.integers(0, 5, num_rows).astype(np.uint16),
            "source": rng.choice(["book", "web", None], num_rows, p=[0.5, 0.3, 0.2]),
        }
    )


def joined(losses: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.join(losses, on=["shard_id", "row"]).collect()


@given(AVAILABLE, st.data())
def test_an_allocation_spends_the_budget_and_never_more_than_there_is(
    available: dict[str, int], data: st.DataObject
) -> None:
    budget = data.draw(st.integers(0, sum(available.values())))
    for quotas in ("equal", "proportional", dict.fromkeys(available, 0.5)):
        got = allocate(budget, available=available, quotas=quotas)
        assert sum(got.values()) == budget
        assert all(0 <= got[name] <= available[name] for name in available)


def test_shares_are_kept_until_a_stratum_is_used_up() -> None:
    available = {"a": 100, "b": 10, "c": 100}
    assert allocate(30, available=available, quotas="equal") == {"a": 10, "b": 10, "c": 10}
    assert allocate(60, available=available, quotas="equal") == {"a": 25, "b": 10, "c": 25}
    assert allocate(21, available=available, quotas="proportional") == {"a": 10, "b": 1, "c": 10}
    assert allocate(40, available=available, quotas={"a": 3, "c": 1}) == {"a": 30, "b": 0, "c": 10}


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"x": 1}, "no stratum x; there are a, b"),
        ({"a": -1}, "share of a is not a number"),
        ({"a": float("inf")}, "share of a is not a number"),
        ({"a": 1}, "only 5"),
    ],
)
def test_quotas_that_cannot_be_met_say_why(quotas: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        allocate(6, available={"a": 5, "b": 5}, quotas=quotas)


def test_each_stratum_has_the_hardest_of_its_own() -> None:
    losses = catalog()
    composition = Composition(by="source", quotas={"book": 1, "null": 2})
    selection = select(losses, strategy=Hard(), num_samples=60, composition=composition)
    chosen = joined(losses, selection.rows)
    for source, count in (("book", 20), (None, 40)):
        pool = losses.filter(pl.col("source").eq_missing(source)).collect()["loss"]
        of_source = chosen.filter(pl.col("source").eq_missing(source))["loss"]
        assert sorted(of_source) == sorted(pool.top_k(count))
    assert len(chosen) == 60


def test_rows_without_a_value_are_another_stratum_than_those_that_say_null() -> None:
    sources = pl.Series("source", ["null", None, '"null"', "web"] * 100)
    losses = catalog().with_columns(sources)
    quotas = {"null": 4, '"null"': 3, '""null""': 2, "web": 1}
    composition = Composition(by="source", quotas=quotas)
    rows = select(losses, strategy=Hard(), num_samples=100, composition=composition).rows
    counts = joined(losses, rows)["source"].value_counts()
    assert dict(counts.iter_rows()) == {None: 40, "null": 30, '"null"': 20, "web": 10}


@pytest.mark.parametrize(
    "name", ["__cost", "__key", "__label", "__eligible", "__stratum", "weight"]
)
def test_columns_may_be_named_as_those_that_selecting_adds(name: str) -> None:
    losses = catalog()
    renamed = losses.rename({"source": name})
    budgets: tuple[dict[str, int], ...] = ({"num_samples": 60}, {"num_units": 2000})
    for budget in budgets:
        found = [
            select(
                rows,
                strategy=Soft(),
                composition=Composition(by=by, quotas="equal", where=f"{by} <> 'x'", explore=0.2),
                **budget,
            ).rows.collect()
            for rows, by in ((losses, "source"), (renamed, name))
        ]
        assert found[0].equals(found[1])
        assert len(found[0])


def test_a_number_that_a_key_reads_has_another_name_than_those_that_selecting_adds() -> None:
    losses = catalog().with_columns(__key=1.0)
    with pytest.raises(InputError, match=r"the column __key: .* rename it"):
        select(losses, strategy=Learnability(reference="__key"), num_samples=1)


def test_exploration_draws_its_share_from_what_the_strategy_left() -> None:
    losses = catalog()
    alone = select(losses, strategy=Hard(), num_samples=75).rows.collect()
    hardest = set(alone.select("shard_id", "row").rows())
    composition = Composition(explore=0.25)
    seen = set()
    for seed in range(20):
        rows = select(
            losses, strategy=Hard(), num_samples=100, seed=seed, composition=composition
        ).rows.collect()
        chosen = set(rows.select("shard_id", "row").rows())
        assert len(chosen) == 100
        assert hardest < chosen
        by_row = dict(zip(rows.select("shard_id", "row").rows(), rows["probability"], strict=True))
        assert all(by_row[row] == 1.0 for row in hardest)
        assert all(by_row[row] == pytest.approx(25 / 325) for row in chosen - hardest)
        seen |= chosen - hardest
    assert len(seen) > 200


def test_exploring_everything_is_a_uniform_draw() -> None:
    losses = catalog()
    rows = select(
        losses, strategy=Soft(), num_samples=100, composition=Composition(explore=1.0)
    ).rows.collect()
    assert rows["probability"].to_list() == pytest.approx([0.25] * 100)


def test_samples_that_stay_hard_after_many_visits_are_dropped() -> None:
    losses = catalog()
    composition = Composition(max_visits=3, hard_quantile=0.8)
    selection = select(losses, strategy=Hard(), num_samples=50, composition=composition)
    limit = losses.collect()["loss"].quantile(0.8)
    chosen = joined(losses, selection.rows)
    assert limit is not None
    assert chosen.filter((pl.col("visits") >= 3) & (pl.col("loss") > limit * 1.001)).is_empty()
    assert chosen.filter((pl.col("visits") < 3) & (pl.col("loss") > limit)).height > 20
    assert selection.eligible < 400


def test_a_budget_in_units_takes_the_hardest_samples_that_fit() -> None:
    losses = catalog()
    selection = select(losses, strategy=Hard(), num_units=2_000)
    chosen = joined(losses, selection.rows)
    order = losses.collect().sort("loss", descending=True)
    fits = int((order["num_units"].cum_sum() <= 2_000).sum())
    assert selection.num_samples == len(chosen) == fits
    assert sorted(chosen["loss"]) == sorted(order["loss"][:fits])


def test_a_budget_beyond_all_units_takes_everything() -> None:
    assert select(catalog(), strategy=Hard(), num_units=10**9).num_samples == 400


def test_inverse_probability_weights_have_mean_one_and_undo_the_choice() -> None:
    losses = catalog()
    composition = Composition(weights="inverse_probability")
    estimates = []
    for seed in range(150):
        rows = select(
            losses, strategy=Soft(), num_samples=150, seed=seed, composition=composition
        ).rows
        chosen = joined(losses, rows)
        assert chosen["weight"].mean() == pytest.approx(1.0, rel=1e-4)
        estimates.append((chosen["weight"] * chosen["loss"]).mean())
    standard_error = np.std(estimates) / np.sqrt(len(estimates))
    truth = losses.collect()["loss"].mean()
    # The weights are normalised by themselves: a small bias of order 1/m remains.
    assert abs(np.mean(estimates) - truth) < 4 * standard_error + 0.01 * truth
    assert np.mean([joined(losses, select(losses, strategy=Soft(), num_samples=150).rows)["loss"]
                    .mean()]) > 1.3 * truth  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"explore": -0.1},
        {"explore": 1.5},
        {"quotas": "equal"},
        {"by": "source", "quotas": "some"},
        {"max_visits": 0},
        {"hard_quantile": 1.0},
        {"weights": "some"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings.keys() - {"by"}))):
        Composition(**settings)


def test_a_column_with_too_many_values_is_no_stratum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attent_select.selection.eligibility._MAX_STRATA", 5)
    with pytest.raises(InputError, match="more than 5 different values"):
        select(catalog(), strategy=Uniform(), ratio=0.5, composition=Composition(by="row"))
