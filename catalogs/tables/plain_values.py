"""Conversion of Arrow tables to columns of plain Python values."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def take_rows(table: pa.Table, positions: npt.NDArray[np.int64]) -> pa.Table:
    """Return the rows at `positions`, which are ascending."""
    if len(positions) == table.num_rows:
        return table
    # Arrow cannot filter view types.
    plain = pa.schema([field.with_type(_without_views(field.type)) for field in table.schema])
    if plain != table.schema:
        table = table.cast(plain)
    # A mask, not `take`: `take` joins chunks, and long binary columns exceed 2 GiB.
    mask = np.zeros(table.num_rows, dtype=np.bool_)
    mask[positions] = True
    return table.filter(pa.array(mask))


def values_of(table: pa.Table) -> dict[str, list[Any]]:
    """Return the values of every column.

    A value without a Python equivalent becomes bytes, so that the task can give that sample a
    status: invalid UTF-8 keeps its bytes, other values (a date in the year 20000) become b"".
    """
    return dict(zip(table.column_names, map(_list, table.columns), strict=True))


def _list(column: pa.ChunkedArray) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        inner = scalar.value if isinstance(scalar, pa.DictionaryScalar) else scalar
        return inner.as_buffer().to_pybytes() if isinstance(inner, pa.BinaryScalar) else b""


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        listed = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return listed(kind.value_field.with_type(_without_views(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind])
    return kind
