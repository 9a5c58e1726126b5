"""Exponential and logarithm with the same result on every processor.

Those of numpy and of the C library differ in their last bits between processors (with and without
AVX-512, for example). These use only operations that IEEE 754 defines to the last bit: + − × ÷,
rounding, and integer arithmetic on the bit patterns. Errors are below one unit in the last place.

Source: the reductions, polynomials and error bounds are those of fdlibm's e_log.c and e_exp.c (Sun
Microsystems, 1993).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Few enough values that the arrays stay in a core's cache.
_VALUES_PER_STEP: Final = 1 << 13
_LN2_HIGH: Final = 6.93147180369123816490e-01
_LN2_LOW: Final = 1.90821492927058770002e-10
_MANTISSA_BITS: Final = 52
_SQRT_HALF_PATTERN: Final = 0x3FE6A09E667F3BCD
_LOG_TERMS: Final = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)
_EXP_TERMS: Final = (
    1.66666666666666019037e-01,
    -2.77777777770155933842e-03,
    6.61375632143793436117e-05,
    -1.65339022054652515390e-06,
    4.13813679705723846039e-08,
)
# Beyond these the results are 0 and infinite.
_EXP_RANGE: Final = (-746.0, 710.0)
# Between these the results are normal numbers.
_NORMAL_EXP: Final = (-708.0, 709.0)


def log(values: Floats) -> Floats:
    """Return ln of float64[n]: −∞ at 0, NaN below 0; values below 2^-1022 count as 0."""
    results = np.empty_like(values)
    with np.errstate(all="ignore"):  # what is not a positive number is replaced
        for first in range(0, len(values), _VALUES_PER_STEP):
            step = slice(first, first + _VALUES_PER_STEP)
            _log(values[step], results[step])
    return results


def exp(values: Floats) -> Floats:
    """Return e to the power of float64[n]."""
    results = np.empty_like(values)
    with np.errstate(all="ignore"):  # 0 and infinite results are intended
        for first in range(0, len(values), _VALUES_PER_STEP):
            step = slice(first, first + _VALUES_PER_STEP)
            _exp(values[step], results[step])
    return results


def _log(x: Floats, out: Floats) -> None:
    # x = 2^exponent · (1 + f) with √½ ≤ 1 + f < √2, and ln(1 + f) = f − f²/2 + s·(f²/2 + R).
    pattern = np.ascontiguousarray(x).view(np.int64)
    exponent = pattern - np.int64(_SQRT_HALF_PATTERN)
    exponent >>= np.int64(_MANTISSA_BITS)
    f = (pattern - (exponent << np.int64(_MANTISSA_BITS))).view(np.float64)
    f -= 1.0
    s = f + 2.0
    np.divide(f, s, out=s)
    z = s * s
    remainder = _polynomial(z, _LOG_TERMS)
    remainder *= z
    half_square = np.multiply(f, f, out=z)
    half_square *= 0.5
    remainder += half_square
    remainder *= s
    powers = exponent.astype(np.float64)
    remainder += np.multiply(powers, _LN2_LOW, out=s)
    half_square -= remainder
    half_square -= f
    powers *= _LN2_HIGH
    np.subtract(powers, half_square, out=out)
    smallest = np.finfo(np.float64).smallest_normal
    if not (x.min(initial=1.0) >= smallest and x.max(initial=1.0) < np.inf):
        out[x < smallest] = -np.inf
        out[x < 0] = np.nan
        out[x == np.inf] = np.inf
        out[np.isnan(x)] = np.nan


def _exp(x: Floats, out: Floats) -> None:
    # x = power·ln 2 + r with |r| ≤ ln 2 / 2, and e^r = 1 + r + r·c/(2 − c), c = r − r²·P(r²).
    is_normal = _NORMAL_EXP[0] < x.min(initial=0.0) and x.max(initial=0.0) < _NORMAL_EXP[1]
    # NaN too: the power is an integer.
    clipped = x if is_normal else np.fmax(np.fmin(x, _EXP_RANGE[1]), _EXP_RANGE[0])
    power = clipped * (1 / (_LN2_HIGH + _LN2_LOW))
    np.rint(power, out=power)
    high = power * _LN2_HIGH
    np.subtract(clipped, high, out=high)
    low = power * _LN2_LOW
    r = high - low
    z = r * r
    c = _polynomial(z, _EXP_TERMS)
    c *= z
    np.subtract(r, c, out=c)
    r *= c
    np.subtract(2.0, c, out=c)
    r /= c
    low -= r
    low -= high
    np.subtract(1.0, low, out=low)
    integers = power.astype(np.int64)
    if is_normal:
        np.multiply(low, _power_of_two(integers), out=out)
        return
    # In two steps, as 2^power itself may be outside of the range of float64.
    half = integers >> np.int64(1)
    integers -= half
    np.multiply(low, _power_of_two(half), out=out)
    out *= _power_of_two(integers)
    if np.isnan(x).any():
        out[np.isnan(x)] = np.nan


def _polynomial(z: Floats, terms: tuple[float, ...]) -> Floats:
    result = z * terms[-1]
    for term in terms[-2:0:-1]:
        result += term
        result *= z
    result += terms[0]
    return result


def _power_of_two(exponent: npt.NDArray[np.int64]) -> Floats:
    exponent += np.int64(1023)
    exponent <<= np.int64(_MANTISSA_BITS)
    return exponent.view(np.float64)
