"""`attent query`: what an engineer asks of a run's tables, and how the answer is shown."""

import os
import pty
import subprocess
import sys

import pytest
from commands import ENVIRONMENT, ROOT, answer_here
from scored_runs import scored_run
from typer.testing import CliRunner

from pipeline import metrics
from pipeline.cli.app import app

NAMES = ("ratio", "train_loss", "accuracy", "samples_seen", "num_steps", "score_seconds", "seconds")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shards of 150 rows: losses 0 … 149 and 150 … 299 (one unreadable); two rounds."""
    losses = [[float(row) for row in range(150)], [float(row) for row in range(150, 300)]]
    run = scored_run(tmp_path_factory.mktemp("asked") / "run", [losses[0], [*losses[1][:-1], None]])
    for number, count in ((0, 30), (1, 60)):
        how = ("--strategy", "hard", "--num-samples", count)
        answer_here("select", run, *how, "--out", f"{run}/index/{number:05d}.parquet")
        values = dict.fromkeys(NAMES, 1.5 + number)
        metrics.publish(run, number, values | {"accuracy": 0.5 + number / 4})
    return run


# What an engineer asks → the answer.
QUESTIONS: dict[str, list[list[object]]] = {
    # How hard was what each round trained on, and how much of it was new?
    """SELECT i.round, avg(l.loss) AS mean, count(*) AS n FROM losses l
       JOIN index i ON l.shard_id = i.shard_id AND l.row = i.row
       GROUP BY i.round ORDER BY i.round""": [[0, 283.5, 30], [1, 268.5, 60]],
    """SELECT count(*) AS new FROM index a LEFT JOIN index b ON a.shard_id = b.shard_id
       AND a.row = b.row AND b.round = 0 WHERE a.round = 1 AND b.row IS NULL""": [[30]],
    # What was never selected, hardest first.
    """SELECT shard_id, row, loss FROM losses LEFT JOIN index USING (shard_id, row)
       WHERE weight IS NULL AND loss IS NOT NULL ORDER BY loss DESC LIMIT 2""": [
        [1, 88, 238.0],
        [1, 87, 237.0],
    ],
    # The hardest two of every shard; halves; change from round to round; a moving average.
    """WITH ranked AS (SELECT shard_id, loss, row_number() OVER (PARTITION BY shard_id
       ORDER BY loss DESC) AS place FROM losses WHERE loss IS NOT NULL)
       SELECT shard_id, loss FROM ranked WHERE place <= 2 ORDER BY shard_id, place""": [
        [0, 149.0],
        [0, 148.0],
        [1, 298.0],
        [1, 297.0],
    ],
    """SELECT q, min(loss) AS lo, max(loss) AS hi FROM (SELECT loss, ntile(2) OVER
       (ORDER BY loss) AS q FROM losses WHERE row < 100 AND shard_id = 0)
       GROUP BY q ORDER BY q""": [[1, 0.0, 49.0], [2, 50.0, 99.0]],
    """SELECT round, accuracy - lag(accuracy) OVER (ORDER BY round) AS gain FROM metrics
       ORDER BY round""": [[0, None], [1, 0.25]],
    """SELECT row, avg(loss) OVER (PARTITION BY shard_id ORDER BY row ROWS BETWEEN 1
       PRECEDING AND CURRENT ROW) AS m FROM losses WHERE shard_id = 0 ORDER BY row LIMIT 2""": [
        [0, 0.0],
        [1, 0.5],
    ],
    # Which shards are hard, and why samples have no loss.
    """SELECT c.shard_id, c.num_samples, avg(loss) AS mean FROM corpus c JOIN losses l
       USING (shard_id) GROUP BY c.shard_id, c.num_samples HAVING avg(loss) > 100""": [
        [1, 150, 224.0]
    ],
    """SELECT status, count(*) AS n, sum(CASE WHEN loss > 290 THEN 1 ELSE 0 END) AS hard
       FROM losses GROUP BY status ORDER BY n""": [["unreadable", 1, 0], ["ok", 299, 8]],
    "SELECT quantile_cont(loss, 0.5) * 2.5 AS x, 1.5 AS y FROM losses": [[372.5, 1.5]],
}


@pytest.mark.parametrize("sql", QUESTIONS)
def test_what_an_engineer_asks_is_answered(run: str, sql: str) -> None:
    assert answer_here("query", run, sql)["rows"] == QUESTIONS[sql]


@pytest.mark.parametrize("table", ["losses", "index", "corpus", "metrics"])
def test_every_column_can_be_compared(run: str, table: str) -> None:
    columns = answer_here("query", run, f"SELECT * FROM {table} LIMIT 1")["columns"]
    # Rows of an index have an origin where some were drawn uniformly: not in this run.
    for name in columns if table != "index" else [each for each in columns if each != "origin"]:
        sql = f"SELECT {name} < {name} AS less FROM {table} WHERE {name} IS NOT NULL LIMIT 1"
        assert answer_here("query", run, sql)["rows"] == [[False]]


def asked(run: str, sql: str, *options: str) -> list[str]:
    done = CliRunner().invoke(app, ["query", run, sql, *options])
    assert done.exit_code == 0, done.stderr
    return [*done.stdout.splitlines(), done.stderr]


def test_no_column_and_no_text_is_cut_short(run: str) -> None:
    top, names, _, first, *_ = asked(
        run, "SELECT * FROM losses JOIN corpus USING (shard_id) ORDER BY shard_id, row"
    )
    for name in ("shard_id", "status", "origin", "visits", "uri", "num_bytes", "etag"):
        assert f" {name} " in names
    assert f" {run}/shards/000.parquet " in first
    assert len(top) == len(names) == len(first) > 120


def test_people_see_the_first_rows_of_many_and_programs_all(run: str) -> None:
    sql = "SELECT row FROM losses ORDER BY shard_id, row"
    *lines, note = asked(run, sql)
    assert len(lines) == 200 + 4
    assert note.startswith("Only the first 200 rows are shown.")
    assert len(answer_here("query", run, sql)["rows"]) == 300
    assert asked(run, f"{sql} LIMIT 200")[-1] == ""


def test_a_table_that_is_wider_than_the_terminal_has_a_line_per_value(run: str) -> None:
    command = [sys.executable, "-m", "attent_select", "query", run, "SELECT * FROM metrics"]
    shown = []
    for columns in ("60", "400"):
        main, terminal = pty.openpty()
        environment = ENVIRONMENT | {"COLUMNS": columns}
        subprocess.run(command, cwd=ROOT, env=environment, stdout=terminal, check=True)
        shown.append(os.read(main, 1 << 16).decode())
        os.close(main)
        os.close(terminal)
    narrow, wide = shown
    assert "row 2\r\n" in narrow
    assert "  accuracy       0.75\r\n" in narrow
    assert "│ 1     ┆" in wide


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT los FROM losses", 'unable to find column "los"; valid columns: ["shard_id"'),
        ("SELECT weight FROM losses", "Tables with this column: index"),
        ("SELECT status, avg(loss) FROM losses", "should participate in the GROUP BY"),
        ("SELECT regexp(status) FROM losses", "unsupported function"),
        ("SELECT loss FROM losses WHERE", "does not parse"),
        (
            "SELECT * FROM parts",
            "no table 'parts': expected annotations, antk, corpus, decisions, index, losses",
        ),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(run: str, sql: str, message: str) -> None:
    done = CliRunner().invoke(app, ["query", run, sql])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
