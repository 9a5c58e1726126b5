"""SQL expressions over the columns of one row: checks, and integers that do not wrap."""

import difflib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import polars as pl

from attent_select.errors import InputError
from attent_select.exact_integers import (
    DECIMAL,
    LARGEST,
    PRODUCT_BOUND,
    SUM_BOUND,
    Bound,
    bound_of,
    exact_dtype,
    wide_dtype,
)
from attent_select.sql_repeats import num_repeats

# A subquery could read any file of the machine (`IN (SELECT … FROM read_parquet('…'))`).
_SUBQUERY: Final = re.compile(r"\b(select|from|table|values|with)\b", re.IGNORECASE)
# Nodes of a serialised polars expression that combine several rows. (`is_row_separable` accepts
# `loss > avg(loss)` as a condition on one row, and fails on `loss > 0.5`.)
_MULTI_ROW_NODES: Final = frozenset({"Agg", "Over", "Len", "Quantile", "Correlation", "Explode"})
# Nodes whose result may be a narrow integer; arithmetic gets its type from its operands.
_TYPED_NODES: Final = frozenset({"Column", "Function", "Cast", "Ternary"})
# Arithmetic by the names that polars gives to it: of two expressions, and of SQL.
_ARITHMETIC: Final[Mapping[str, tuple[str, Bound]]] = {
    "Plus": ("Plus", SUM_BOUND),
    "Minus": ("Minus", SUM_BOUND),
    "Multiply": ("Mul", PRODUCT_BOUND),
    "Mul": ("Mul", PRODUCT_BOUND),
}
_MAX_CHARACTERS: Final = 200_000
_MAX_OPERATORS: Final = 300
# The parser takes two or three times as long for each of the former inside another, if it is wrong.
# Of the latter, polars repeats an argument two to four times.
_MAX_NESTED: Final = 5
_SLOW_CALL: Final = re.compile(
    r"(?P<slow>\b(\w*cast|convert|substring|substr|overlay|position"
    r"|nullif|left|right|split_part|array_get)\s*\()|(?P<other>\()|\)",
    re.IGNORECASE,
)
_SHOWN_CHARACTERS: Final = 200
_OPERATOR: Final = re.compile(
    # A comma before a name: each column in the list of IN repeats the operand.
    r"[-+*/%<>=!|&^~(]+|,(?=\s*[^\s'\d.+-])|\b(and|or|not|case|when|is|like|between)\b",
    re.IGNORECASE,
)


class _Widened(NamedTuple):
    """A serialised expression without narrow integers.

    Attributes:
        tree: The expression.
        bound: The largest absolute value if it has integers, or true and false.
        dtype: Their type, where it is known.
    """

    tree: Any
    bound: int | None = None
    dtype: pl.DataType | None = None


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
    """Return the columns of a table for SQL, with integers that are wide enough for it."""
    return [pl.col(name).cast(wide_dtype(dtype)) for name, dtype in schema.items()]


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
    if _num_nested(words) > _MAX_NESTED or num_repeats(words) > 1:
        raise _too_deep(what)
    try:
        return pl.sql_expr(text)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
        raise InputError(f"{what}: {shown!r} is not an SQL expression: {reason}") from error


def _num_nested(words: str) -> int:
    """Return how many slow calls are inside one another at most."""
    opened: list[bool] = []
    depth = most = 0
    for match in _SLOW_CALL.finditer(words):
        if match["slow"] or match["other"]:
            opened.append(bool(match["slow"]))
            depth += opened[-1]
            most = max(most, depth)
        elif opened:
            depth -= opened.pop()
    return most


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
    return _expression(_widen(tree, pl.DataFrame(schema=schema)).tree)


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


def _widen(tree: Any, empty: pl.DataFrame) -> _Widened:
    """Return an expression over the columns of `empty` that computes without wrapping."""
    if isinstance(tree, list):
        return _Widened([_widen(child, empty).tree for child in tree])
    if not isinstance(tree, dict):
        return _Widened(tree)
    if "Literal" in tree:
        return _Widened(tree, _literal_bound(tree["Literal"]))
    if (operation := _operation(tree)) is not None:
        name, operands = operation
        return _arithmetic(name, [_operand(operand, empty) for operand in operands], tree)
    if "Column" not in tree:
        tree = {name: _widen(child, empty).tree for name, child in tree.items()}
    if len(tree) != 1 or not _TYPED_NODES.issuperset(tree):
        return _Widened(tree)
    if _is_power(tree):  # a power of integers soon exceeds any type
        return _Widened(_cast_power(tree))
    return _with_dtype(tree, empty)


def _with_dtype(tree: Any, empty: pl.DataFrame) -> _Widened:
    (dtype,) = empty.select(_expression(tree).alias("value")).schema.values()
    wide = wide_dtype(dtype)
    return _Widened(tree if dtype == wide else _cast(tree, wide), bound_of(dtype), wide)


def _operand(tree: Any, empty: pl.DataFrame) -> _Widened:
    """Return an operand of arithmetic; a comparison, for example, counts as 0 or 1."""
    operand = _widen(tree, empty)
    if operand.bound is None and "BinaryExpr" in operand.tree:
        return _with_dtype(operand.tree, empty)
    return operand


def _operation(tree: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Return the name and the operands of a sum, a difference or a product."""
    if "BinaryExpr" in tree:
        node = tree["BinaryExpr"]
        return (node["op"], [node["left"], node["right"]]) if node["op"] in _ARITHMETIC else None
    match tree:
        case {"Function": {"input": operands, "function": {"Sql": {"Binary": name}}}} if (
            name in _ARITHMETIC
        ):
            return name, operands
        case {"Function": {"input": [operand], "function": "Abs"}}:
            return "Abs", [operand]
    return None


def _arithmetic(name: str, operands: Sequence[_Widened], tree: Any) -> _Widened:
    """Return arithmetic on integers in a type that holds every result; other values as they are."""
    trees = [operand.tree for operand in operands]
    bounds = [operand.bound for operand in operands if operand.bound is not None]
    if len(bounds) < len(operands):
        return _Widened(_with_operands(tree, trees))
    if name == "Abs":  # the smallest Int64 has no opposite among them
        result = min(bounds[0], LARGEST)
        dtype = exact_dtype(result)
        return _Widened(_with_operands(tree, [_cast(trees[0], dtype)]), result, dtype)
    sql_name, bound_after = _ARITHMETIC[name]
    result = bound_after(*bounds)
    dtype = exact_dtype(result)
    trees = [
        operand.tree if operand.dtype == dtype else _cast(operand.tree, dtype)
        for operand in operands
    ]
    if dtype != DECIMAL:
        return _Widened(_with_operands(tree, trees), result, dtype)
    node = {"Function": {"input": trees, "function": {"Sql": {"Binary": sql_name}}}}
    return _Widened(_cast(node, pl.Int128()), LARGEST, pl.Int128())


def _with_operands(tree: Any, operands: Sequence[Any]) -> Any:
    if "BinaryExpr" in tree:
        left, right = operands
        return {"BinaryExpr": {**tree["BinaryExpr"], "left": left, "right": right}}
    return {"Function": {**tree["Function"], "input": list(operands)}}


def _literal_bound(value: Any) -> int | None:
    match value:
        case {"Dyn": {"Int": int(number)}}:
            return abs(number)
    return None


def _is_power(tree: Any) -> bool:
    match tree:
        case {"Function": {"function": {"Pow": "Generic"}}}:
            return True
    return False


def _cast_power(tree: Any) -> Any:
    operands = [_cast(operand, pl.Float64()) for operand in tree["Function"]["input"]]
    return _with_operands(tree, operands)


def _cast(tree: Any, dtype: pl.DataType) -> Any:
    name = (
        {"Decimal": [dtype.precision, dtype.scale]} if isinstance(dtype, pl.Decimal) else str(dtype)
    )
    return {"Cast": {"expr": tree, "dtype": {"Literal": name}, "options": "Strict"}}


def _expression(tree: Any) -> pl.Expr:
    try:
        return pl.Expr.deserialize(io.StringIO(json.dumps(tree)), format="json")
    except pl.exceptions.ComputeError as error:  # nested deeper than a parser of JSON allows
        raise RecursionError from error


def _too_deep(what: str) -> InputError:
    return InputError(f"{what} is too long or nested too deeply: write it with fewer operators")
