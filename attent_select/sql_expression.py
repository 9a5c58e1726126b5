"""SQL expressions over the columns of one row: checks, and integers that do not wrap.

polars computes with the dtype of its columns: `num_units - 30` of a u32 wraps around. So every
integer of up to 32 bits, also the result of a function such as LENGTH, becomes Int64, and UInt64
becomes Int128.
"""

import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from attent_select.errors import InputError

# A subquery could read any file of the machine (`IN (SELECT … FROM read_parquet('…'))`).
_SUBQUERY: Final = re.compile(r"\b(select|from|table|values|with)\b", re.IGNORECASE)
# Nodes of a serialised polars expression that combine several rows. (`is_row_separable` accepts
# `loss > avg(loss)` as a condition on one row, and fails on `loss > 0.5`.)
_MULTI_ROW_NODES: Final = frozenset({"Agg", "Over", "Len", "Quantile", "Correlation", "Explode"})
# Nodes whose result may be a narrow integer; the others get their dtype from these.
_TYPED_NODES: Final = frozenset({"Column", "Function", "Cast"})
_MAX_CHARACTERS: Final = 200_000
_MAX_OPERATORS: Final = 300
_SHOWN_CHARACTERS: Final = 200
_OPERATOR: Final = re.compile(
    r"[-+*/%<>=!|&^~(]+|\b(and|or|not|case|when|is|like|between)\b", re.IGNORECASE
)
_WIDE: Final[Mapping[pl.DataType, str]] = {
    **dict.fromkeys((pl.Int8(), pl.Int16(), pl.Int32()), "Int64"),
    **dict.fromkeys((pl.UInt8(), pl.UInt16(), pl.UInt32()), "Int64"),
    pl.UInt64(): "Int128",
}


def columns_of(text: str, *, what: str) -> tuple[str, ...]:
    """Return the columns that an expression reads, in order. Raises `InputError`."""
    return tuple(dict.fromkeys(_parse(text, what=what).meta.root_names()))


def condition(text: str, schema: pl.Schema, *, what: str) -> pl.Expr:
    """Return a condition on one row; a row for which it is null does not fulfil it.

    Raises:
        InputError: it is not a condition on a single row, or names an unknown column.
    """
    expression = _check_expression(text, schema, what=what, kind="condition")
    dtype = _dtype(expression, schema, text=text, what=what, kind="condition")
    if dtype != pl.Boolean:
        raise InputError(f"{what}: {text!r} gives {dtype}, expected a condition (true or false)")
    return expression.fill_null(False)


def number(text: str, schema: pl.Schema, *, what: str) -> pl.Expr:
    """Return a float64 number of one row (true is 1).

    Raises:
        InputError: it is not a number of a single row, or names an unknown column.
    """
    expression = _check_expression(text, schema, what=what, kind="number")
    dtype = _dtype(expression, schema, text=text, what=what, kind="number")
    if not (dtype.is_numeric() or dtype == pl.Boolean):
        raise InputError(f"{what}: {text!r} gives {dtype}, expected a number")
    return expression.cast(pl.Float64)


def value(text: str, schema: pl.Schema, *, what: str) -> pl.Expr:
    """Return the value of one row, of any type.

    Raises:
        InputError: it is not an expression on a single row, or names an unknown column.
    """
    return _check_expression(text, schema, what=what, kind="value")


def wide_columns(schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """Return the columns of a table for SQL: integers are wide enough that sums do not wrap."""
    kinds = {"Int64": pl.Int64(), "Int128": pl.Int128()}
    return [
        pl.col(name).cast(kinds[_WIDE[dtype]]) if dtype in _WIDE else pl.col(name)
        for name, dtype in schema.items()
    ]


def unknown_column(name: str, known: Sequence[str]) -> str:
    """Return the message about an unknown column, with a suggestion."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
    return f"unknown column {name!r}, {hint}"


def _parse(text: str, *, what: str) -> pl.Expr:
    # Words inside plain quotes are harmless; with escapes or comments, every word counts.
    is_plain = not re.search(r"[\\\"$]|--|/\*", text)
    words = re.sub(r"'[^']*'", "''", text) if is_plain else text
    if word := _SUBQUERY.search(words):
        raise InputError(
            f"{what}: {word.group()!r} is not allowed, expected an expression on a single row"
        )
    # Before parsing: polars takes minutes for thousands of operators, or overflows its stack.
    if len(text) > _MAX_CHARACTERS or len(_OPERATOR.findall(words)) > _MAX_OPERATORS:
        raise _too_deep(what)
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        raise InputError(f"{what}: {shown!r} is not an SQL expression: {reason}") from error


def _check_expression(text: str, schema: pl.Schema, *, what: str, kind: str) -> pl.Expr:
    try:
        return _checked_expression(text, schema, what=what, kind=kind)
    except RecursionError as error:
        raise _too_deep(what) from error


def _checked_expression(text: str, schema: pl.Schema, *, what: str, kind: str) -> pl.Expr:
    expression = _parse(text, what=what)
    for name in expression.meta.root_names():
        if name not in schema:
            raise InputError(f"{what}: {text!r}: {unknown_column(name, schema.names())}")
    tree = json.loads(expression.meta.serialize(format="json"))
    if not _MULTI_ROW_NODES.isdisjoint(_node_names(tree)):
        raise InputError(
            f"{what}: {text!r} compares several rows, expected a {kind} on a single row"
        )
    _dtype(expression, schema, text=text, what=what, kind=kind)
    return _expression(_widen(tree, schema))


def _dtype(
    expression: pl.Expr, schema: pl.Schema, *, text: str, what: str, kind: str
) -> pl.DataType:
    try:
        # Evaluated without rows: finds wrong types now.
        return pl.DataFrame(schema=schema).select(expression.alias(kind)).schema[kind]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{what}: {text!r} is not a {kind}: {reason}") from error


def _node_names(tree: Any) -> Iterator[str]:
    """Yield the names in a serialised expression, without those of columns and literals."""
    if isinstance(tree, dict):
        for name, child in tree.items():
            yield name
            if name not in ("Column", "Literal"):
                yield from _node_names(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from _node_names(child)
    elif isinstance(tree, str):
        yield tree


def _widen(tree: Any, schema: pl.Schema) -> Any:
    """Return a serialised expression in which no integer is narrow."""
    if isinstance(tree, list):
        return [_widen(child, schema) for child in tree]
    if not isinstance(tree, dict) or "Literal" in tree:
        return tree
    if len(tree) != 1 or not _TYPED_NODES.issuperset(tree):
        return {name: _widen(child, schema) for name, child in tree.items()}
    wide = tree if "Column" in tree else {n: _widen(child, schema) for n, child in tree.items()}
    empty = pl.DataFrame(schema=schema)
    (dtype,) = empty.select(_expression(wide).alias("value")).schema.values()
    if dtype not in _WIDE:
        return wide
    return {"Cast": {"expr": wide, "dtype": {"Literal": _WIDE[dtype]}, "options": "Strict"}}


def _expression(tree: Any) -> pl.Expr:
    try:
        return pl.Expr.deserialize(io.StringIO(json.dumps(tree)), format="json")
    except pl.exceptions.ComputeError as error:  # nested deeper than a parser of JSON allows
        raise RecursionError from error


def _too_deep(what: str) -> InputError:
    return InputError(f"{what} is too long or nested too deeply: write it with fewer operators")
