"""Exponential and logarithm: right to the last bit but one, and the same on every processor."""

import json
import math
import os
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__

from attent_select.stats import elementary

SELECT = """
import hashlib, json, sys
import numpy as np, polars as pl
from attent_select import select

rng = np.random.default_rng(0)
rows = np.arange(20_000, dtype=np.uint32)
losses = pl.DataFrame({
    "shard_id": rows // 1000, "row": rows % 1000,
    "loss": pl.Series(rng.gamma(1.2, 0.7, len(rows)), dtype=pl.Float32),
})
results = []
for strategy in ("soft", "rank"):
    subset = select(losses, strategy=strategy, ratio=0.2, seed=3)
    columns = b"".join(column.to_numpy().tobytes() for column in subset.rows.collect())
    results.append([subset.threshold, hashlib.blake2b(columns).hexdigest()])
print(json.dumps(results))
"""


@given(st.floats(min_value=2.3e-308, max_value=1e308))
def test_the_logarithm_is_right_to_one_unit_in_the_last_place(value: float) -> None:
    result = float(elementary.log(np.array([value]))[0])
    expected = math.log(value)
    assert abs(result - expected) <= math.ulp(expected)


@given(st.floats(min_value=-700, max_value=709))
def test_the_exponential_is_right_to_one_unit_in_the_last_place(value: float) -> None:
    result = float(elementary.exp(np.array([value]))[0])
    expected = math.exp(value)
    assert abs(result - expected) <= math.ulp(expected)


def test_values_at_the_ends_have_their_limits() -> None:
    inf, nan = math.inf, math.nan
    logarithms = elementary.log(np.array([0.0, 1.0, -1.0, inf, nan, 5e-324]))
    np.testing.assert_array_equal(logarithms, [-inf, 0, nan, inf, nan, -inf])
    powers = elementary.exp(np.array([0.0, -inf, inf, nan, -1e308, 1e308, 710.0]))
    np.testing.assert_array_equal(powers, [1, 0, inf, nan, 0, inf, inf])
    assert math.copysign(1, elementary.log(np.array([1.0]))[0]) == 1


def test_results_do_not_depend_on_the_number_of_values() -> None:
    values = np.random.default_rng(0).random(20_000)
    assert (elementary.log(values)[-5:] == elementary.log(values[-5:])).all()
    assert (elementary.exp(values)[-5:] == elementary.exp(values[-5:])).all()


def select_without(features: list[str]) -> list[tuple[float, str]]:
    """Return thresholds and digests of selections by numpy without some instructions."""
    done = subprocess.run(
        [sys.executable, "-c", SELECT],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(features)},
    )
    return list(json.loads(done.stdout))


def test_a_selection_is_the_same_on_a_processor_with_fewer_instructions() -> None:
    assert select_without(list(__cpu_dispatch__)) == select_without([])
