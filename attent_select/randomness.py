"""Counter-based random numbers: splitmix64 over (seed, purposes…, counter).

A number depends on nothing but its arguments, so a draw is the same whatever the number of parts,
threads or machines. The polars and the numpy form give the same bits (golden values in the tests).
`Expr.hash` and `sample` are not used: they are not stable across polars versions.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the
constants are those of Vigna's reference implementation of splitmix64.
"""

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

_GAMMA: Final = 0x9E3779B97F4A7C15
_MULTIPLIER_1: Final = 0xBF58476D1CE4E5B9
_MULTIPLIER_2: Final = 0x94D049BB133111EB
_MASK: Final = (1 << 64) - 1


class Purpose(IntEnum):
    """What a draw is for: draws for different purposes never share a stream."""

    SELECT = 1
    SHUFFLE_SHARDS = 2
    SHUFFLE_ROWS = 3
    TRAIN_STEP = 4
    AUGMENT = 5
    SPLIT = 6
    EXPLORE = 7
    RESCORE = 8


def stream_key(seed: int, *purposes: int) -> int:
    """The u64 key of the stream for (seed, purposes…): draws with it are `mix(key + counter)`."""
    key = _mix_int(seed & _MASK)
    for purpose in purposes:
        key = _mix_int(key ^ (purpose & _MASK))
    return key


def uniform(key: int, counter: pl.Expr) -> pl.Expr:
    """float64 uniforms in (0, 1], multiples of 2^-53: exact, and never 0, so that ln is finite.

    Args:
        key: from `stream_key`.
        counter: u64 expression, for a sample its `sample_key()`.
    """
    mantissa = bits(key, counter) // _u64(1 << 11)
    return (mantissa.cast(pl.Float64) + 1.0) * 2.0**-53


def bits(key: int, counter: pl.Expr) -> pl.Expr:
    """64 random bits per counter, as u64."""
    # There is no u64 shift in polars: shifts to the right are divisions by powers of two.
    x = (counter ^ _u64(key)) + _u64(_GAMMA)
    x = (x ^ (x // _u64(1 << 30))) * _u64(_MULTIPLIER_1)
    x = (x ^ (x // _u64(1 << 27))) * _u64(_MULTIPLIER_2)
    return x ^ (x // _u64(1 << 31))


def numpy_bits(key: int, counter: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The same 64 bits as `bits`, for a numpy array of counters of any shape."""
    with np.errstate(over="ignore"):
        x = (counter ^ np.uint64(key)) + np.uint64(_GAMMA)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_MULTIPLIER_1)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_MULTIPLIER_2)
    return x ^ (x >> np.uint64(31))


def _mix_int(value: int) -> int:
    x = (value + _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * _MULTIPLIER_1) & _MASK
    x = ((x ^ (x >> 27)) * _MULTIPLIER_2) & _MASK
    return x ^ (x >> 31)


def _u64(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)
