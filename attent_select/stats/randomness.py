"""Counter-based random numbers: splitmix64 over (seed, purposes…, counter).

A number depends only on its arguments, so a draw is the same for any number of parts, threads or
machines (golden values in the tests). The polars expressions call numpy: polars lacks u64 shifts,
and the divisions that could replace them cost ten times as much. `Expr.hash` and `sample` are not
used because they are not stable across polars versions.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the
constants are those of Vigna's reference implementation of splitmix64.
"""

import functools
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.schema import ROW, SHARD_ID, numpy_sample_key
from attent_select.stats.elementwise import elementwise

_GAMMA: Final = 0x9E3779B97F4A7C15
_MULTIPLIER_1: Final = 0xBF58476D1CE4E5B9
_MULTIPLIER_2: Final = 0x94D049BB133111EB
_MASK: Final = (1 << 64) - 1


class Purpose(IntEnum):
    """Purpose of a draw; draws for different purposes never share a stream."""

    SELECT = 1
    SHUFFLE_SHARDS = 2
    SHUFFLE_ROWS = 3
    TRAIN_STEP = 4
    AUGMENT = 5
    SPLIT = 6
    EXPLORE = 7
    RESCORE = 8
    PROBE = 9
    SKETCH = 10
    ANNOTATE = 11
    JUDGE = 12
    BLOCKS = 13
    BLOCK_ROWS = 14
    COMPARE = 15
    QUOTAS = 16
    MIX = 17
    PATCHES = 18


def stream_key(seed: int, *purposes: int) -> int:
    """Return the u64 key of the random stream for (seed, purposes…)."""
    key = _mix_int(seed & _MASK)
    for purpose in purposes:
        key = _mix_int(key ^ (purpose & _MASK))
    return key


def uniform(key: int, counter: pl.Expr) -> pl.Expr:
    """Uniform float64 in (0, 1], multiples of 2^-53: exact, and never 0, so that ln is finite.

    Args:
        key: from `stream_key`.
        counter: u64 expression; for a sample, its `sample_key()`.
    """
    return elementwise(functools.partial(_uniform, key), counter)


def sample_uniform(key: int) -> pl.Expr:
    """`uniform` of each row's `sample_key()`."""
    return elementwise(functools.partial(numpy_sample_uniform, key), pl.col(SHARD_ID), pl.col(ROW))


def numpy_sample_uniform(
    key: int, shards: npt.NDArray[np.uint32], rows: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float64]:
    """`sample_uniform` for arrays of shard_id and row."""
    return _uniform(key, numpy_sample_key(shards, rows))


def bits(key: int, counter: pl.Expr) -> pl.Expr:
    """64 random bits per counter, as u64."""
    return elementwise(functools.partial(numpy_bits, key), counter, dtype=pl.UInt64)


def numpy_bits(key: int, counter: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 random bits per counter, for counters of any shape."""
    with np.errstate(over="ignore"):
        # In place: allocating arrays would take as long as the arithmetic.
        x = np.atleast_1d(counter ^ np.uint64(key))
        x += np.uint64(_GAMMA)
        shifted = x >> np.uint64(30)
        x ^= shifted
        x *= np.uint64(_MULTIPLIER_1)
        x ^= np.right_shift(x, np.uint64(27), out=shifted)
        x *= np.uint64(_MULTIPLIER_2)
        x ^= np.right_shift(x, np.uint64(31), out=shifted)
    return x.reshape(np.shape(counter))


def _mix_int(value: int) -> int:
    x = (value + _GAMMA) & _MASK
    x = ((x ^ (x >> 30)) * _MULTIPLIER_1) & _MASK
    x = ((x ^ (x >> 27)) * _MULTIPLIER_2) & _MASK
    return x ^ (x >> 31)


def _uniform(key: int, counter: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    return uniform_of_bits(numpy_bits(key, counter))


def uniform_of_bits(random: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return `uniform` of each of some random bits."""
    draws = (random >> np.uint64(11)).astype(np.float64)
    draws += 1.0
    draws *= 2.0**-53
    return draws
