"""SQL of `attent query`: integers are what Python's integers give, or the query fails."""

import polars as pl
import pytest
from exact_arithmetic import expressions, rows, table, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from attent_select.errors import InputError
from attent_select.exact_integers import LARGEST
from attent_select.sql_expression import wide_columns
from pipeline.reports.exact_sql import exact_statement
from pipeline.reports.query import SqlDialect, checked_select, text_of


def _answer(sql: str, frame: pl.DataFrame) -> pl.DataFrame:
    wide = frame.lazy().select(wide_columns(frame.schema))
    statement, _ = checked_select(sql, tables=["t"])
    exact = exact_statement(statement, {"t": wide.collect_schema()}, dialect=SqlDialect)
    return pl.SQLContext(frames={"t": wide}).execute(text_of(exact)).collect()


@given(text=expressions(), row=rows())
@settings(max_examples=50)
def test_a_query_gives_what_pythons_integers_give_or_fails(text: str, row: dict[str, int]) -> None:
    expected = values_of(text, row)
    try:
        answer = _answer(f"SELECT {text} AS value FROM t", table(row))
    except pl.exceptions.PolarsError:
        assert max(map(abs, expected)) > LARGEST
    else:
        assert answer.rows() == [(expected[0],)]


@given(
    text=st.sampled_from(
        ["u32", "u64", "i64", "u32 * i64", "LENGTH(text) - u32", "-u8", "u64 * 5"]
    ),
    some_rows=st.lists(rows(), min_size=1, max_size=4),
    query=st.sampled_from(
        [
            "SELECT SUM({}) AS value FROM t",
            "SELECT SUM({}) OVER () AS value FROM t LIMIT 1",
            "SELECT SUM({}) FILTER (WHERE text = 'four') AS value FROM t",
            "SELECT SUM({}) AS value FROM t GROUP BY text",
            "SELECT SUM(v) AS value FROM (SELECT {} AS v FROM t) s",
            "WITH s AS (SELECT {} AS v FROM t) SELECT SUM(v) + 1 - 1 AS value FROM s",
        ]
    ),
)
@settings(max_examples=50)
def test_a_sum_is_that_of_pythons_integers(
    text: str, some_rows: list[dict[str, int]], query: str
) -> None:
    expected = sum(values_of(text, row)[0] for row in some_rows)
    assert _answer(query.format(text), table(*some_rows)).rows() == [(expected,)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT text FROM t WHERE LENGTH(text) - 5 > 0", []),
        ("SELECT COUNT(*) FROM t HAVING COUNT(*) - 3 > 0", []),
        ("SELECT n FROM t ORDER BY LENGTH(text) - n", [(5,), (0,)]),
        ("SELECT n, LENGTH(text) AS c FROM t ORDER BY (c - n) * 2", [(5, 4), (0, 4)]),
        ("SELECT n FROM t UNION ALL SELECT LENGTH(text) - 9 FROM t ORDER BY n LIMIT 1", [(-5,)]),
        ("SELECT a.n FROM t a JOIN t b ON a.n + 5 = b.n WHERE a.n - b.n < 0", [(0,)]),
        ("SELECT n FROM t WHERE n - 9 IN (SELECT LENGTH(text) - 8 FROM t)", [(5,)]),
        ("SELECT (n % 2 + COUNT(*)) - 9 AS v FROM t GROUP BY n % 2 ORDER BY v", [(-8,), (-7,)]),
        ("SELECT CASE WHEN n > 1 THEN LENGTH(text) ELSE 0 END - 9 FROM t", [(-9,), (-5,)]),
        ("SELECT (SELECT MIN(LENGTH(text)) FROM t) - 9 AS v FROM t LIMIT 1", [(-5,)]),
        ("SELECT SUM(n > 1) - 9, SUM(DISTINCT n) FROM t", [(-8, 5)]),
        ("SELECT DATE_PART('month', DATE '2024-01-01') - 200 AS v FROM t LIMIT 1", [(-199,)]),
        ("SELECT 2000000000 * 2 AS v FROM t LIMIT 1", [(4_000_000_000,)]),
    ],
)  # fmt: skip
def test_results_of_functions_do_not_wrap(sql: str, expected: list[tuple[object, ...]]) -> None:
    frame = pl.DataFrame({"n": [0, 5], "text": ["four", "four"]}, schema_overrides={"n": pl.UInt32})
    assert _answer(sql, frame).rows() == expected


@pytest.mark.parametrize(
    "sql", ["SELECT n + u", "SELECT SUM(n)", "SELECT LENGTH(text) - n", "SELECT 1 + n"]
)
def test_columns_keep_the_names_that_polars_gives_them(sql: str) -> None:
    frame = pl.DataFrame({"n": [1], "u": [2], "text": ["four"]}, schema_overrides={"n": pl.UInt32})
    plain = pl.SQLContext(t=frame).execute(f"{sql} FROM t", eager=True)
    assert _answer(f"{sql} FROM t", frame).columns == plain.columns


def test_an_unknown_column_in_arithmetic_is_named() -> None:
    with pytest.raises(InputError, match=r"the query does not run: losss: .*\"losss\""):
        _answer("SELECT losss - 1 FROM t", pl.DataFrame({"loss": [1]}))


@pytest.mark.parametrize("num_terms", [200, 5000])
def test_a_long_sum_is_exact_or_refused(num_terms: int) -> None:
    sql = f"SELECT {'+'.join(['n'] * num_terms)} AS v FROM t"
    frame = pl.DataFrame({"n": [2**32 - 1]}, schema_overrides={"n": pl.UInt32})
    if num_terms == 200:
        assert _answer(sql, frame).item() == 200 * (2**32 - 1)
    else:
        with pytest.raises(InputError, match="too deeply"):
            _answer(sql, frame)
