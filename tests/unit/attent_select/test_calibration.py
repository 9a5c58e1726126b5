"""Observed losses on the scale of scored ones."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attent_select.calibration import QuantileMap

LOSSES = st.floats(0, 20, width=32)
PAIRS = arrays(np.float32, st.tuples(st.integers(32, 300), st.just(2)), elements=LOSSES)


def fitted(observed: np.ndarray, scored: np.ndarray) -> QuantileMap:
    found = QuantileMap.fit(observed, scored)
    assert found is not None
    return found


@given(PAIRS, arrays(np.float32, 50, elements=st.floats(-5, 40, width=32)))
def test_a_map_never_turns_the_order_around_and_never_leaves_the_losses(
    pairs: np.ndarray, losses: np.ndarray
) -> None:
    mapped = fitted(pairs[:, 0], pairs[:, 1])(np.sort(losses))
    assert (np.diff(mapped) >= 0).all()
    assert (mapped >= 0).all()
    assert mapped.shape == losses.shape


@given(PAIRS)
def test_what_it_was_fitted_on_gets_no_value_that_nobody_had(pairs: np.ndarray) -> None:
    mapped = fitted(pairs[:, 0], pairs[:, 1])(pairs[:, 0])
    assert mapped.min() >= pairs[:, 1].min() - 1e-5
    assert mapped.max() <= pairs[:, 1].max() + 1e-5


def test_observed_losses_get_the_distribution_of_the_scored_ones() -> None:
    random = np.random.default_rng(0)
    scored = random.gamma(2, 0.5, 20_000)
    # Train mode: larger, wider, with noise that does not depend on the sample.
    observed = 0.3 + 1.4 * scored + random.normal(0, 0.1, 20_000)
    half = fitted(observed[::2], scored[::2])
    mapped = half(observed[1::2])
    for share in (0.1, 0.5, 0.9, 0.99):
        expected = np.quantile(scored[1::2], share)
        assert np.quantile(mapped, share) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert abs(mapped.mean() - scored.mean()) < 0.02 < abs(observed.mean() - scored.mean())


def test_beyond_what_was_seen_the_hardest_rows_keep_their_distances() -> None:
    observed = np.linspace(1, 2, 100)
    found = fitted(observed, observed / 2)
    assert found(np.array([2.0, 5.0, 6.0])).tolist() == pytest.approx([1.0, 4.0, 5.0])
    assert found(np.array([0.9, 0.0])).tolist() == pytest.approx([0.4, 0.0])


def test_equal_observed_losses_are_mapped_to_the_mean_of_what_was_scored() -> None:
    found = fitted(np.ones(65), np.arange(65.0))
    assert found(np.array([1.0])).tolist() == [32.0]


def test_few_rows_make_no_map_and_the_identity_changes_nothing() -> None:
    holes = np.full(100, np.nan)
    holes[:31] = 1.0
    assert QuantileMap.fit(holes, np.ones(100)) is None
    losses = np.array([0.5, 3.0], dtype=np.float32)
    assert QuantileMap()(losses).tolist() == [0.5, 3.0]


@given(PAIRS)
def test_a_map_survives_json(pairs: np.ndarray) -> None:
    found = fitted(pairs[:, 0], pairs[:, 1])
    assert QuantileMap.from_plain(json.loads(json.dumps(found.plain()))) == found
