"""What is read from the loss histogram, against numpy on the losses themselves."""

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
    found = distribution_of(losses)
    tolerance = np.abs(losses).max() * 2.0**-12
    assert found.num_samples == len(losses)
    assert found.mean == pytest.approx(np.mean(losses), abs=tolerance)
    assert found.standard_deviation == pytest.approx(np.std(losses), abs=2 * tolerance)


@given(LOSSES, st.floats(0, 1))
def test_a_quantile_is_the_value_that_many_rows_do_not_exceed(
    losses: list[float], share: float
) -> None:
    expected = np.quantile(np.array(losses, np.float32), share, method="inverted_cdf")
    found = distribution_of(losses).quantile(share)
    assert found == pytest.approx(expected, rel=2.0**-12, abs=1e-30)


def test_zeros_of_either_sign_are_one_value() -> None:
    found = distribution_of([0.0, -0.0, 0.0, 2.0])
    assert found.values[0] == 0.0
    assert found.counts.tolist() == [3, 1]


def test_clipping_moves_the_tail_and_keeps_the_counts() -> None:
    clipped = distribution_of([1.0, 2.0, 1000.0]).clip(1.5, 4.0)
    assert clipped.values == pytest.approx([1.5, 2.0, 4.0], rel=1e-3)
    assert clipped.num_samples == 3


def test_equal_losses_have_no_spread_however_many_they_are() -> None:
    # Sums of so many lose their last bits: the mean is not exactly the one value there is.
    buckets = np.array([108686, 129695, 803200], dtype=np.uint32)
    counts = np.array([324709210, 77299965, 83754367], dtype=np.uint64)
    found = LossDistribution.from_buckets(buckets, counts)
    lowest = float(found.values[0])
    assert found.clip(lowest, lowest).standard_deviation == 0.0
