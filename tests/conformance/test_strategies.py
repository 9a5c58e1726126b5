"""What every strategy promises, for every file in `attent_select/strategies/`."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from attent_select import Composition, plugins, select
from attent_select.errors import InputError
from attent_select.schema import INDEX
from attent_select.strategies.band import Band
from attent_select.strategies.rank import Rank
from attent_select.strategies.soft import Soft
from attent_select.strategy import Strategy

PACKAGE = "attent_select.strategies"
ALL = [plugins.load_plugin(PACKAGE, name)() for name in plugins.plugin_names(PACKAGE)]
VARIANTS = [
    Soft(temperature=0.3),
    Soft(reference=True),
    Rank(exponent=1.5),
    Band(low=0.2, high=0.4),
]
EVERY = pytest.mark.parametrize("strategy", [*ALL, *VARIANTS], ids=repr)


def catalog(num_rows: int, *, seed: int = 0, rows_per_shard: int = 7) -> pl.LazyFrame:
    """Losses with everything that a strategy may ask for; a tenth has no loss."""
    rng = np.random.default_rng(seed)
    position = np.arange(num_rows, dtype=np.uint32)
    losses = pl.Series(rng.gamma(1, 1, num_rows).round(2), dtype=pl.Float32)
    losses = losses.set(pl.Series(rng.random(num_rows) < 0.1), None)
    return pl.LazyFrame(
        {
            "shard_id": position // np.uint32(rows_per_shard),
            "row": position % np.uint32(rows_per_shard),
            "loss": losses,
            "reference_loss": pl.Series(rng.gamma(1, 0.5, num_rows), dtype=pl.Float32),
            "functional_gradient": (losses / (losses + 1)).cast(pl.Float32),
            "measured_step": rng.choice(np.array([0, 10, 20], dtype=np.uint64), num_rows),
            "num_units": rng.integers(1, 9, num_rows, dtype=np.uint32),
            "visits": rng.integers(0, 4, num_rows).astype(np.uint16),
            "source": rng.choice(["book", "web", "code"], num_rows, p=[0.6, 0.3, 0.1]),
        }
    )


def rows_of(selected: pl.LazyFrame) -> list[tuple[int, int]]:
    return sorted(selected.collect().select("shard_id", "row").rows())


@EVERY
@pytest.mark.parametrize("num_samples", [0, 1, 123, 850])
def test_exactly_as_many_distinct_rows_as_asked_for(strategy: Strategy, num_samples: int) -> None:
    selection = select(
        catalog(1000), strategy=strategy, num_samples=num_samples, round_steps=(0, 10, 20)
    )
    rows = selection.rows.collect()
    assert dict(rows.schema) == INDEX
    assert len(rows) == selection.num_samples == num_samples
    assert rows.select("shard_id", "row").n_unique() == num_samples
    assert rows["probability"].is_between(0, 1, closed="right").all()
    assert (rows["weight"] == 1.0).all()


@EVERY
def test_a_row_without_what_the_key_needs_is_never_selected(strategy: Strategy) -> None:
    losses = catalog(300)
    selection = select(losses, strategy=strategy, num_samples=250)
    lost = losses.filter(pl.col("loss").is_null()).collect().select("shard_id", "row").rows()
    if {"loss", "functional_gradient"}.intersection(strategy.columns):
        assert selection.eligible == 300 - len(lost)
        assert not set(rows_of(selection.rows)) & set(lost)
    else:
        assert selection.eligible == 300


@EVERY
def test_the_parts_and_their_order_do_not_matter(strategy: Strategy) -> None:
    whole = catalog(2000)
    steps = (0, 10, 20)
    expected = select(whole, strategy=strategy, ratio=0.3, seed=5, round_number=2,
                      round_steps=steps)  # fmt: skip
    for num_parts in (2, 9):
        cuts = [i * 2000 // num_parts for i in range(num_parts + 1)]
        parts = [whole.slice(a, b - a) for a, b in pairwise(cuts)]
        again = select(pl.concat(parts[::-1]), strategy=strategy, ratio=0.3, seed=5,
                       round_number=2, round_steps=steps)  # fmt: skip
        assert rows_of(again.rows) == rows_of(expected.rows)
        assert again.threshold == expected.threshold


@EVERY
def test_with_nothing_eligible_there_is_one_clear_error(strategy: Strategy) -> None:
    nothing = Composition(where="loss > 1000")
    with pytest.raises(InputError, match="only 0 are eligible"):
        select(catalog(50), strategy=strategy, num_samples=3, composition=nothing)
    in_units = select(catalog(50), strategy=strategy, num_units=3, composition=nothing)
    assert in_units.num_samples == len(in_units.rows.collect()) == 0


@EVERY
def test_equal_losses_are_no_special_case(strategy: Strategy) -> None:
    equal = catalog(500).with_columns(loss=0.5, reference_loss=0.5, functional_gradient=0.5)
    rows = select(equal, strategy=strategy, num_samples=200).rows.collect()
    assert len(rows) == 200
    assert rows["probability"].is_between(0, 1, closed="right").all()


@EVERY
def test_losses_over_their_probabilities_estimate_the_mean_without_bias(
    strategy: Strategy,
) -> None:
    """Horvitz and Thompson's estimate; where every probability is 1, nothing may be random."""
    losses = catalog(60).with_columns(pl.col("loss").fill_null(1.0)).collect()
    values = losses["loss"].to_numpy().astype(np.float64)
    estimates, chosen, probabilities = [], set(), []
    for seed in range(150):
        rows = select(losses.lazy(), strategy=strategy, num_samples=30, seed=seed).rows.collect()
        at = rows["shard_id"].to_numpy() * 7 + rows["row"].to_numpy()
        chosen.add(tuple(sorted(at)))
        probabilities.append(rows["probability"].to_numpy())
        estimates.append((values[at] / probabilities[-1]).sum() / 60)
    if np.min(probabilities) == 1.0:
        assert len(chosen) == 1
        return
    standard_error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - values.mean()) < 4 * standard_error
    # Tight enough to notice probabilities that are off by a tenth.
    assert standard_error < 0.025 * values.mean()


@EVERY
def test_quotas_exploration_and_guards_compose_with_it(strategy: Strategy) -> None:
    losses = catalog(2000)
    composition = Composition(
        by="source",
        quotas={"web": 2, "code": 1},
        explore=0.25,
        max_visits=2,
        where="num_units > 1",
        weights="inverse_probability",
    )
    selection = select(losses, strategy=strategy, num_samples=150, composition=composition)
    rows = selection.rows.join(losses, on=["shard_id", "row"]).collect()
    assert dict(rows["source"].value_counts().iter_rows()) == {"web": 100, "code": 50}
    assert rows["num_units"].min() == 2
    assert rows["weight"].mean() == pytest.approx(1.0, rel=1e-3)
