"""SQL expressions of one row: the same rows as exact arithmetic gives, and clear refusals."""

import polars as pl
import pytest
from exact_arithmetic import expressions, rows, table, values_of
from hypothesis import given

from attent_select.errors import InputError
from attent_select.exact_integers import LARGEST
from attent_select.sql_expression import columns_of, condition, number, value, wide_columns


@given(text=expressions(), row=rows())
def test_an_expression_gives_what_pythons_integers_give_or_fails(
    text: str, row: dict[str, int]
) -> None:
    frame, expected = table(row), values_of(text, row)
    try:
        (computed,) = frame.select(value(text, frame.schema, what="key")).row(0)
    except pl.exceptions.PolarsError:
        assert max(map(abs, expected)) > LARGEST
    else:
        assert computed == expected[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n - 30 > 0", False),
        ("POWER(n, 20) > 1000000", True),
        ("CASE WHEN n > 2 THEN LENGTH(source) ELSE 0 END - 7 < 0", True),
        ("COALESCE(STRPOS(source, 'z'), 0) - 1 < 0", True),
        ("(n > 2) - 2 < 0", True),
        ("2000000000 * 2 > n", True),
    ],
)
def test_conditions_on_small_integers_do_not_wrap(text: str, *, expected: bool) -> None:
    frame = pl.DataFrame({"n": [29], "source": ["web"]}, schema_overrides={"n": pl.UInt32})
    assert frame.select(condition(text, frame.schema, what="where")).item() is expected


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
    [
        "abs(row) IN (1, 2) OR row BETWEEN 3 AND 4 AND row IN (4)",
        "CASE row WHEN 1 THEN row IN (1) ELSE row BETWEEN 1 AND 5 AND row IN (row) END",
        "row IN (" + ", ".join(map(str, range(5000))) + ")",
        "NOT row IN (1) AND NOT (row NOT BETWEEN 1 AND 9) AND nullif(row, 1) > 1",
    ],
)
def test_conditions_beside_one_another_are_not_nested(text: str) -> None:
    assert columns_of(text, what="where") == ("row",)
    condition(text, pl.Schema({"row": pl.UInt32()}), what="where")


@pytest.mark.parametrize(
    "text",
    ["+".join(["row"] * n) + " > 0" for n in (150, 20_000)]
    + [
        "NOT " * 3000 + "row > 0",
        "abs(" * 900 + "row" + ")" * 900 + " > 0",
        "row > " + "1" * 300_000,
        "CAST(" * 40 + "row > 0",
        "row > 1 + POSITION (" * 20 + ")" * 20,
        "row" + " IN ('a', row#)" * 20,
        "(" * 20 + "row" + " BETWEEN 1 AND row)" * 20,
        "CASE " * 20 + "row" + " WHEN 1 THEN 2 END" * 20 + " > 1",
        "nullif(" * 20 + "row" + ", row)" * 20 + " > 1",
        "row IN (1) /* OR */ IN (row)",
        "row + row IN (" + ", ".join(["row"] * 1000) + ")",
        "row + row IN (" + ", ".join(['"row"'] * 1000) + ")",
    ],
    ids=[
        *("sum", "long sum", "not", "calls", "long", "casts", "positions"),
        *("in", "between", "case", "nullif", "comment", "columns", "quoted columns"),
    ],
)
def test_an_expression_that_is_nested_deeply_is_refused(text: str) -> None:
    schema = pl.Schema({"row": pl.UInt32()})
    with pytest.raises(InputError, match="where is too long or nested too deeply"):
        condition(text, schema, what="where")
