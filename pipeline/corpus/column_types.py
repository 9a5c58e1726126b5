"""Types of columns that come as Python values: one for each, which represents all its values. Pure.

A column whose values have no common type becomes JSON text (`arrow.json`), as `datasets` stores
them. Nothing is rounded or turned into text silently.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from attent_select.errors import InputError

Types = dict[str, pa.DataType]
JSON: Final = pa.json_(pa.string())
_TYPE_ERRORS: Final = (pa.ArrowException, TypeError, OverflowError, ValueError)


def types_of(rows: Sequence[Mapping[str, Any]]) -> Types:
    """Return the type of each column of some rows; null for one without values."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _type_of([row.get(name) for row in rows]) for name in names}


def common_types(first: Types, second: Types) -> Types:
    """Return types that represent the values of both."""
    names = dict.fromkeys((*first, *second))
    null = pa.null()
    return {name: _common(first.get(name, null), second.get(name, null)) or JSON for name in names}


def storable_types(types: Types) -> Types:
    """Return the types that Parquet can store: objects that are all empty become JSON text."""
    return {name: JSON if _has_empty_struct(dtype) else dtype for name, dtype in types.items()}


def column_of(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
    """Return the values as a column of a type.

    Raises:
        ValueError: a value does not have that type.
    """
    try:
        if dtype == JSON:
            texts = [None if value is None else _json_text(value) for value in values]
            return pa.ExtensionArray.from_storage(JSON, pa.array(texts, pa.string()))
        if any(_has_bool(value, dtype) for value in values):
            raise ValueError("true or false in a column of numbers")
        return pa.array(values, dtype)
    except _TYPE_ERRORS as error:
        raise ValueError(str(error)) from error


def parse_types(texts: Sequence[str]) -> Types:
    """Return the types that `NAME=TYPE` name, such as `label=int64` or `meta=json`.

    Raises:
        InputError: a text has another form, or the type is unknown.
    """
    types: Types = {}
    for text in texts:
        name, mark, kind = text.partition("=")
        try:
            types[name] = JSON if kind == "json" else pa.type_for_alias(kind)
        except ValueError as error:
            raise InputError(
                f"--schema {text}: unknown type {kind!r}, expected json, string, int64, float32,"
                " bool, binary or another type of Arrow"
            ) from error
        if not (name and mark):
            raise InputError(f"--schema {text}: expected NAME=TYPE, such as label=int64")
    return types


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _type_of(values: Sequence[Any]) -> pa.DataType:
    try:
        dtype = pa.array(values).type
    except _TYPE_ERRORS:
        return JSON
    # pyarrow would read True as 1.
    return JSON if any(_has_bool(value, dtype) for value in values) else dtype


def _common(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return the type of both; None if there is none."""
    if pa.types.is_null(second) or first == second:
        return first
    if pa.types.is_null(first):
        return second
    if pa.types.is_list(first) and pa.types.is_list(second):
        item = _common(first.value_type, second.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        types = {field.name: field.type for field in first}
        for field in second:
            common = _common(types.get(field.name, pa.null()), field.type)
            if common is None:
                return None
            types[field.name] = common
        return pa.struct(list(types.items()))
    kinds = {first, second}
    # An integer that a float cannot represent is an error when it is written.
    return pa.float64() if kinds == {pa.int64(), pa.float64()} else None


def _has_empty_struct(dtype: pa.DataType) -> bool:
    if pa.types.is_struct(dtype):
        return not dtype.num_fields or any(_has_empty_struct(field.type) for field in dtype)
    return pa.types.is_list(dtype) and _has_empty_struct(dtype.value_type)


def _has_bool(value: Any, dtype: pa.DataType) -> bool:
    """Whether `value` has a bool where `dtype` has a number."""
    if value is None:
        return False
    if pa.types.is_list(dtype):
        return isinstance(value, list) and any(_has_bool(item, dtype.value_type) for item in value)
    if pa.types.is_struct(dtype):
        return isinstance(value, dict) and any(
            _has_bool(value.get(field.name), field.type) for field in dtype
        )
    is_number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype)
    return is_number and isinstance(value, bool)
