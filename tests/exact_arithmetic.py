"""SQL expressions of integers with their values in Python's integers, for hypothesis."""

import ast
from typing import Final

import polars as pl
from hypothesis import strategies as st

COLUMNS: Final = {
    "u8": pl.UInt8(),
    "u32": pl.UInt32(),
    "u64": pl.UInt64(),
    "i8": pl.Int8(),
    "i32": pl.Int32(),
    "i64": pl.Int64(),
}
_TEXT: Final = "four"


def expressions() -> st.SearchStrategy[str]:
    """Sums, differences and products of columns, of `LENGTH(text)` and of literals."""
    leaves = st.one_of(
        st.sampled_from([*COLUMNS, "LENGTH(text)"]), st.integers(0, 2**63 - 1).map(str)
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({' '.join(t)})"),
            inner.map(lambda text: f"ABS({text})"),
            inner.map(lambda text: f"(-{text})"),
        ),
        max_leaves=6,
    )


@st.composite
def rows(draw: st.DrawFn) -> dict[str, int]:
    """A value of each of the `COLUMNS`, often the smallest or the largest one."""
    row = {}
    for name in COLUMNS:
        bits = int(name[1:]) - (name[0] == "i")
        low, high = (-(2**bits) if name[0] == "i" else 0), 2**bits - 1
        row[name] = draw(st.one_of(st.sampled_from([low, high]), st.integers(low, high)))
    return row


def table(*some_rows: dict[str, int]) -> pl.DataFrame:
    """Return the rows with their `text`."""
    return pl.DataFrame(
        [{**row, "text": _TEXT} for row in some_rows], schema={**COLUMNS, "text": pl.String()}
    )


def values_of(text: str, row: dict[str, int]) -> list[int]:
    """Return the value of an expression, followed by those of all expressions inside it."""
    tree = ast.parse(text.lower().replace("length(text)", str(len(_TEXT))), mode="eval")
    return [
        eval(compile(ast.Expression(node), "sql", "eval"), {"abs": abs}, row)
        for node in ast.walk(tree.body)
        if isinstance(node, ast.expr) and not (isinstance(node, ast.Name) and node.id == "abs")
    ]
