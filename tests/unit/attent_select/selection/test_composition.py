"""Settings around a strategy: quotas, exploration, guards, budgets in units, weights."""

import numpy as np
import polars as pl
import pytest

from attent_select import Composition, select
from attent_select.errors import InputError
from attent_select.strategies.hard import Hard
from attent_select.strategies.learnability import Learnability
from attent_select.strategies.soft import Soft
from attent_select.strategies.uniform import Uniform


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


def with_columns_of(losses: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.join(losses, on=["shard_id", "row"]).collect()


def test_each_stratum_gets_its_own_hardest_samples() -> None:
    losses = catalog()
    composition = Composition(by="source", quotas={"book": 1, "null": 2})
    selection = select(losses, strategy=Hard(), num_samples=60, composition=composition)
    selected = with_columns_of(losses, selection.rows)
    for source, count in (("book", 20), (None, 40)):
        pool = losses.filter(pl.col("source").eq_missing(source)).collect()["loss"]
        of_source = selected.filter(pl.col("source").eq_missing(source))["loss"]
        assert sorted(of_source) == sorted(pool.top_k(count))
    assert len(selected) == 60


def test_rows_without_a_value_and_rows_that_say_null_are_different_strata() -> None:
    sources = pl.Series("source", ["null", None, '"null"', "web"] * 100)
    losses = catalog().with_columns(sources)
    quotas = {"null": 4, '"null"': 3, '""null""': 2, "web": 1}
    composition = Composition(by="source", quotas=quotas)
    rows = select(losses, strategy=Hard(), num_samples=100, composition=composition).rows
    counts = with_columns_of(losses, rows)["source"].value_counts()
    assert dict(counts.iter_rows()) == {None: 40, "null": 30, '"null"': 20, "web": 10}


@pytest.mark.parametrize(
    "name", ["__cost", "__key", "__label", "__eligible", "__stratum", "weight"]
)
def test_other_columns_may_have_the_names_of_temporary_columns(name: str) -> None:
    losses = catalog()
    renamed = losses.rename({"source": name})
    budgets: tuple[dict[str, int], ...] = ({"num_samples": 60}, {"num_units": 2000})
    for budget in budgets:
        results = [
            select(
                rows,
                strategy=Soft(),
                composition=Composition(by=by, quotas="equal", where=f"{by} <> 'x'", explore=0.2),
                **budget,
            ).rows.collect()
            for rows, by in ((losses, "source"), (renamed, name))
        ]
        assert results[0].equals(results[1])
        assert len(results[0])


def test_a_column_of_the_key_must_not_have_a_reserved_name() -> None:
    losses = catalog().with_columns(__key=1.0)
    with pytest.raises(InputError, match=r"the column __key: .* rename it"):
        select(losses, strategy=Learnability(reference="__key"), num_samples=1)


def test_exploration_draws_from_the_rows_that_the_strategy_did_not_select() -> None:
    losses = catalog()
    without = select(losses, strategy=Hard(), num_samples=75).rows.collect()
    hardest = set(without.select("shard_id", "row").rows())
    composition = Composition(explore=0.25)
    explored = set()
    for seed in range(20):
        rows = select(
            losses, strategy=Hard(), num_samples=100, seed=seed, composition=composition
        ).rows.collect()
        selected = set(rows.select("shard_id", "row").rows())
        assert len(selected) == 100
        assert hardest < selected
        by_row = dict(zip(rows.select("shard_id", "row").rows(), rows["probability"], strict=True))
        assert all(by_row[row] == 1.0 for row in hardest)
        assert all(by_row[row] == pytest.approx(25 / 325) for row in selected - hardest)
        explored |= selected - hardest
    assert len(explored) > 200


def test_exploring_the_whole_budget_is_a_uniform_draw() -> None:
    losses = catalog()
    rows = select(
        losses, strategy=Soft(), num_samples=100, composition=Composition(explore=1.0)
    ).rows.collect()
    assert rows["probability"].to_list() == pytest.approx([0.25] * 100)


def test_samples_that_stay_hard_after_many_visits_are_excluded() -> None:
    losses = catalog()
    composition = Composition(max_visits=3, hard_quantile=0.8)
    selection = select(losses, strategy=Hard(), num_samples=50, composition=composition)
    limit = losses.collect()["loss"].quantile(0.8)
    selected = with_columns_of(losses, selection.rows)
    assert limit is not None
    assert selected.filter((pl.col("visits") >= 3) & (pl.col("loss") > limit * 1.001)).is_empty()
    assert selected.filter((pl.col("visits") < 3) & (pl.col("loss") > limit)).height > 20
    assert selection.eligible < 400


def test_a_budget_in_units_selects_the_hardest_samples_that_fit() -> None:
    losses = catalog()
    selection = select(losses, strategy=Hard(), num_units=2_000)
    selected = with_columns_of(losses, selection.rows)
    order = losses.collect().sort("loss", descending=True)
    fits = int((order["num_units"].cum_sum() <= 2_000).sum())
    assert selection.num_samples == len(selected) == fits
    assert sorted(selected["loss"]) == sorted(order["loss"][:fits])


def test_a_budget_larger_than_all_units_selects_everything() -> None:
    assert select(catalog(), strategy=Hard(), num_units=10**9).num_samples == 400


def test_inverse_probability_weights_have_mean_1_and_correct_the_bias() -> None:
    losses = catalog()
    composition = Composition(weights="inverse_probability")
    estimates = []
    for seed in range(150):
        rows = select(
            losses, strategy=Soft(), num_samples=150, seed=seed, composition=composition
        ).rows
        selected = with_columns_of(losses, rows)
        assert selected["weight"].mean() == pytest.approx(1.0, rel=1e-4)
        estimates.append((selected["weight"] * selected["loss"]).mean())
    standard_error = np.std(estimates) / np.sqrt(len(estimates))
    truth = losses.collect()["loss"].mean()
    # Self-normalised weights have a small bias of order 1/m.
    assert abs(np.mean(estimates) - truth) < 4 * standard_error + 0.01 * truth
    unweighted = with_columns_of(losses, select(losses, strategy=Soft(), num_samples=150).rows)
    assert unweighted["loss"].mean() > 1.3 * truth


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
def test_invalid_settings_are_rejected(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings.keys() - {"by"}))):
        Composition(**settings)


def test_a_column_with_too_many_values_is_rejected_as_strata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("attent_select.selection.strata.MAX_STRATA", 5)
    with pytest.raises(InputError, match="more than 5 different values"):
        select(catalog(), strategy=Uniform(), ratio=0.5, composition=Composition(by="row"))
