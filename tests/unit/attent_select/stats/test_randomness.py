"""Counter-based random numbers: golden values, independent of batches, uniform."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from attent_select.stats.randomness import Purpose, bits, numpy_bits, stream_key, uniform

U64 = st.integers(0, 2**64 - 1)


def polars_bits(key: int, counters: list[int]) -> list[int]:
    frame = pl.DataFrame({"c": counters}, schema={"c": pl.UInt64})
    return frame.select(bits(key, pl.col("c")))["c"].to_list()


def test_the_mixer_gives_the_published_values_of_splitmix64() -> None:
    # The first outputs of Vigna's splitmix64 seeded with 0 and 1: state 0 gives counter 0.
    gamma = 0x9E3779B97F4A7C15
    assert polars_bits(0, [0, gamma, 2 * gamma % 2**64]) == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_stream_keys_and_uniforms_have_golden_values() -> None:
    key = stream_key(7, Purpose.SELECT, 3)
    counters = pl.DataFrame({"c": [0, 1, 2**63]}, schema={"c": pl.UInt64})
    draws = counters.select(uniform(key, pl.col("c")))
    assert key == 0xD11D9FDD9A9557BC
    assert draws.to_series().to_list() == [
        0.04046158943426681,
        0.4096443418135306,
        0.2238069283219376,
    ]


@given(U64, st.lists(U64, min_size=1))
def test_columns_and_arrays_give_the_same_bits(key: int, counters: list[int]) -> None:
    drawn = numpy_bits(key, np.array(counters, dtype=np.uint64))
    assert drawn.tolist() == polars_bits(key, counters)


def test_uniforms_lie_in_the_half_open_interval_and_fill_it_evenly() -> None:
    counters = pl.DataFrame({"c": np.arange(200_000, dtype=np.uint64)})
    drawn = counters.select(uniform(stream_key(0), pl.col("c"))).to_series()
    assert drawn.min() > 0
    assert drawn.max() <= 1
    in_tenths = np.histogram(drawn.to_numpy(), bins=10, range=(0, 1))[0]
    # Chi-squared with 9 degrees of freedom: 27.9 is exceeded with probability 0.001.
    assert ((in_tenths - 20_000) ** 2 / 20_000).sum() < 27.9


def test_different_seeds_purposes_and_rounds_have_different_keys() -> None:
    keys = {stream_key(s, p, r) for s in range(10) for p in Purpose for r in range(10)}
    assert len(keys) == 10 * len(Purpose) * 10
    assert stream_key(0, 1, 2) != stream_key(0, 2, 1)
