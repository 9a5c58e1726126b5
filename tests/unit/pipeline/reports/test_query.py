"""Which SQL `attent query` runs, and which it refuses before it touches a file."""

from pathlib import Path

import polars as pl
import pytest

from attent_select.errors import InputError
from pipeline.reports.query import TABLES, checked_select, text_of


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("select * from losses", {"losses"}),
        ("SELECT status, count(*) AS n FROM losses GROUP BY status ORDER BY n DESC", {"losses"}),
        ("with a as (select * from losses) select * from a join index using (row)",
         {"losses", "index"}),
        ("select row from losses where row in (select row from index where round = 1)",
         {"losses", "index"}),
        ("select shard_id from corpus union all select round from metrics", {"corpus", "metrics"}),
        ("select 'read_parquet(''/etc/passwd'')' as s from losses", {"losses"}),
        ("select 1 -- ; drop table losses", set()),
        ("select row from LOSSES join Index using (row)", {"losses", "index"}),
    ],
)  # fmt: skip
def test_one_select_over_the_tables_is_allowed(sql: str, tables: set[str]) -> None:
    _, used = checked_select(sql, tables=TABLES)
    assert used == tables


def test_many_joins_with_conditions_are_parsed() -> None:
    joins = " ".join(f"join index as i{n} on i{n}.row = losses.row" for n in range(40))
    assert checked_select(f"select losses.row from losses {joins}", tables=TABLES)[1]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select * from read_parquet('/etc/passwd')", "table functions are not allowed"),
        ("select * from \"read_parquet\"('/etc/passwd')", "table functions are not allowed"),
        ("select * from losses where row in (select row from read_csv('x'))", "table functions"),
        ("with a as (select * from read_json('x')) select * from a", "table functions"),
        ("select * from losses, lateral read_parquet('x')", "table functions are not allowed"),
        ("select * from losses, lateral flatten(row)", "table functions are not allowed"),
        ("select read_csv('x') from losses", "table functions are not allowed"),
        ("select scan_parquet('x') from losses", "table functions are not allowed"),
        ("select * from unnest(READ_NDJSON('x'))", "table functions are not allowed"),
        ("select * from 'file.parquet'", "no table 'file.parquet'"),
        (
            "select * from secrets",
            "no table 'secrets': expected annotations, antk, corpus, decisions, index",
        ),
        ("select * from other.losses", "not allowed"),
        ("delete from losses", "one SELECT"),
        ("drop table losses", "one SELECT"),
        ("create table a as select * from losses", "one SELECT"),
        ("insert into losses select * from index", "one SELECT"),
        ("select * into copied from losses", "only reads"),
        ("select 1; select 2", "one SELECT"),
        ("show tables", "one SELECT"),
        ("explain select 1", "one SELECT"),
        ("", "one SELECT"),
        ("select from where", "does not parse"),
        ("select count(*[ as n from losses", "does not parse"),
        ("select row from losses" + " join index" * 40, "more than 10 joins in a row without ON"),
    ],
)
def test_anything_else_is_refused(sql: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_select(sql, tables=TABLES)


def test_what_runs_is_the_checked_statement_without_its_comments() -> None:
    statement, _ = checked_select(
        "select row /* from read_parquet('x') */ from losses -- and more", tables=TABLES
    )
    assert text_of(statement) == "SELECT row FROM losses"


def test_a_table_written_in_capitals_is_the_same_table() -> None:
    statement, used = checked_select("select T.row, b.row as other from T, T b", tables=["t"])
    found = pl.SQLContext(t=pl.DataFrame({"row": [1]})).execute(text_of(statement), eager=True)
    assert (used, found.rows()) == ({"t"}, [(1, 1)])


@pytest.mark.parametrize(
    "sql",
    [
        "select avg(loss) as mean, stddev(loss) as sd, median(loss) as m from t",
        "select status, count(*) as n from t group by status having count(*) > 1 order by n desc",
        "select cast(row as double) as a, substr(status, 1, 1) as b, coalesce(loss, 0) as c from t",
        "select row, row_number() over (partition by status order by loss) as r from t order by 1",
        "select a.row from t a join t b using (row) where a.loss > 0 and b.loss > 0 order by a.row",
        "select * exclude (status) from t where status in ('ok') or loss is null limit 2",
    ],
)
def test_writing_the_statement_anew_does_not_change_its_answer(sql: str) -> None:
    t = pl.DataFrame(
        {"row": [0, 1, 2, 3], "loss": [0.5, 1.5, None, 2.5], "status": ["ok", "ok", "empty", "ok"]}
    )
    statement, _ = checked_select(sql, tables=["t"])
    context = pl.SQLContext(t=t)
    expected = context.execute(sql, eager=True)
    assert context.execute(text_of(statement), eager=True).equals(expected)
    assert len(expected)


def test_polars_itself_would_read_the_file(tmp_path: Path) -> None:
    # The reason for the checks: if polars stops doing this, they can become simpler.
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "x.parquet")
    sql = f"select * from read_parquet('{tmp_path}/x.parquet')"
    assert len(pl.SQLContext().execute(sql, eager=True)) == 1
