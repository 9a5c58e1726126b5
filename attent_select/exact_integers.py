"""Integer arithmetic that never wraps: the type in which an operation on integers is exact.

polars computes in the types of the operands: `num_units - 30` of a u32 wraps. So of every integer
the largest absolute value is known, and it is computed in a type that holds it: Int64, Int128, or a
Decimal of 38 digits, whose overflow is an error.
"""

from collections.abc import Callable
from operator import add, mul
from typing import Final

import polars as pl

DECIMAL: Final = pl.Decimal(38, 0)
# The largest absolute value of a Decimal, which an Int128 holds as well.
LARGEST: Final = 10**38 - 1
# The largest absolute values of a sum, a difference and a product, from those of the operands.
Bound = Callable[[int, int], int]
SUM_BOUND: Final[Bound] = add
PRODUCT_BOUND: Final[Bound] = mul
# More rows than any table has.
_ROWS: Final = 1 << 48
_BOUNDS: Final[dict[pl.DataType, int]] = {
    pl.Boolean(): 1,
    pl.Int8(): 1 << 7,
    pl.Int16(): 1 << 15,
    pl.Int32(): 1 << 31,
    pl.Int64(): 1 << 63,
    pl.Int128(): 1 << 127,
    pl.UInt8(): 1 << 8,
    pl.UInt16(): 1 << 16,
    pl.UInt32(): 1 << 32,
    pl.UInt64(): 1 << 64,
    pl.UInt128(): 1 << 128,
}


def bound_of(dtype: pl.DataType) -> int | None:
    """Return the largest absolute value of an integer or Boolean type; None for other types."""
    return _BOUNDS.get(dtype)


def wide_dtype(dtype: pl.DataType) -> pl.DataType:
    """Return the type for SQL: integers up to 32 bits become Int64, UInt64 becomes Int128."""
    if dtype == pl.UInt64:
        return pl.Int128()
    return pl.Int64() if dtype.is_integer() and _BOUNDS[dtype] < 1 << 63 else dtype


def exact_dtype(bound: int) -> pl.DataType:
    """Return the type that computes values up to `bound`, or fails where it cannot."""
    if bound < 1 << 63:
        return pl.Int64()
    return pl.Int128() if bound < 1 << 127 else DECIMAL


def column_sum_bound(bound: int) -> int:
    """Return the bound of the sum of a column, which is an Int128 at least."""
    return max(bound * _ROWS, 1 << 63)
