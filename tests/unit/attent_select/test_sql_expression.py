"""SQL expressions of one row: the same rows as exact arithmetic gives, and clear refusals."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.sql_expression import condition, number, wide_columns

KINDS = {"u8": pl.UInt8, "u16": pl.UInt16, "u32": pl.UInt32, "u64": pl.UInt64, "i8": pl.Int8,
         "i32": pl.Int32}  # fmt: skip


@given(
    kind=st.sampled_from(sorted(KINDS)),
    shift=st.integers(-(2**31), 2**31 - 1),
    data=st.data(),
)
def test_arithmetic_of_integers_does_not_wrap(kind: str, shift: int, data: st.DataObject) -> None:
    bits = int(kind[1:])
    low, high = (0, 2**bits - 1) if kind.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    value = data.draw(st.integers(low, min(high, 2**bits - 1) - (kind.startswith("i"))))
    frame = pl.DataFrame({"x": pl.Series([value], dtype=KINDS[kind])})
    for text, expected in (
        (f"x - {shift} > 0", value - shift > 0),
        (f"x + {shift} < x", shift < 0),
        (f"-x <= {shift}", -value <= shift),
    ):
        assert frame.select(condition(text, frame.schema, what="where")).item() == expected, text


def test_results_of_functions_do_not_wrap() -> None:
    frame = pl.DataFrame({"source": ["web", "a longer name"]})
    rows = frame.select(
        a=condition("LENGTH(source) - 10 > 0", frame.schema, what="where"),
        b=number("LENGTH(source) - 10", frame.schema, what="key"),
    )
    assert rows.rows() == [(False, -7.0), (True, 3.0)]


def test_wide_columns_sum_beyond_their_own_type() -> None:
    frame = pl.DataFrame({"n": pl.Series([2**32 - 1] * 3, dtype=pl.UInt32), "x": [1.0, 2.0, 3.0]})
    wide = frame.select(wide_columns(frame.schema))
    assert wide["n"].sum() == 3 * (2**32 - 1)
    assert wide.schema == {"n": pl.Int64, "x": pl.Float64}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relevanse", "unknown column 'relevanse', did you mean relevance"),
        ("avg(relevance) - relevance", "compares several rows, expected a number on a single row"),
        ("source", "gives String, expected a number"),
        ("relevance +", "is not an SQL expression"),
        ("(select 1)", "'select' is not allowed"),
    ],
)
def test_what_is_not_a_number_of_one_row_is_refused(text: str, message: str) -> None:
    schema = pl.Schema({"relevance": pl.Float32, "source": pl.String})
    with pytest.raises(InputError, match=f"^key: .*{message}"):
        number(text, schema, what="key")


@pytest.mark.parametrize(
    "text",
    ["+".join(["row"] * n) + " > 0" for n in (150, 20_000)]
    + [
        "NOT " * 3000 + "row > 0",
        "abs(" * 900 + "row" + ")" * 900 + " > 0",
        "row > " + "1" * 300_000,
    ],
    ids=["sum", "long sum", "not", "calls", "long"],
)
def test_an_expression_that_is_nested_deeply_is_refused(text: str) -> None:
    schema = pl.Schema({"row": pl.UInt32()})
    with pytest.raises(InputError, match="where is too long or nested too deeply"):
        condition(text, schema, what="where")
