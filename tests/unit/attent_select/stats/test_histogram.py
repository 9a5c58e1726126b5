"""Statistics of the loss histogram, compared with numpy on the losses."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.stats.histogram import LossDistribution, loss_bucket

LOSSES = st.lists(
    st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=1
)


def distribution_of(losses: list[float]) -> LossDistribution:
    buckets = pl.select(loss_bucket(pl.Series(losses, dtype=pl.Float32))).to_series().to_numpy()
    values, counts = np.unique(buckets, return_counts=True)
    return LossDistribution.from_buckets(values, counts.astype(np.uint64))


@given(LOSSES)
def test_mean_and_spread_agree_to_the_width_of_a_bucket(losses: list[float]) -> None:
    distribution = distribution_of(losses)
    tolerance = np.abs(losses).max() * 2.0**-12
    assert distribution.num_samples == len(losses)
    assert distribution.mean == pytest.approx(np.mean(losses), abs=tolerance)
    assert distribution.standard_deviation == pytest.approx(np.std(losses), abs=2 * tolerance)


@given(LOSSES, st.floats(0, 1))
def test_a_quantile_is_the_value_that_the_share_of_rows_does_not_exceed(
    losses: list[float], share: float
) -> None:
    expected = np.quantile(np.array(losses, np.float32), share, method="inverted_cdf")
    quantile = distribution_of(losses).quantile(share)
    assert quantile == pytest.approx(expected, rel=2.0**-12, abs=1e-30)


def test_positive_and_negative_zero_are_one_value() -> None:
    distribution = distribution_of([0.0, -0.0, 0.0, 2.0])
    assert distribution.values[0] == 0.0
    assert distribution.counts.tolist() == [3, 1]


def test_clipping_changes_the_tail_and_keeps_the_counts() -> None:
    clipped = distribution_of([1.0, 2.0, 1000.0]).clip(1.5, 4.0)
    assert clipped.values == pytest.approx([1.5, 2.0, 4.0], rel=1e-3)
    assert clipped.num_samples == 3


def test_any_number_of_equal_losses_has_standard_deviation_0() -> None:
    # Large sums are rounded: the mean is not exactly the only value.
    buckets = np.array([108686, 129695, 803200], dtype=np.uint32)
    counts = np.array([324709210, 77299965, 83754367], dtype=np.uint64)
    distribution = LossDistribution.from_buckets(buckets, counts)
    lowest = float(distribution.values[0])
    assert distribution.clip(lowest, lowest).standard_deviation == 0.0
