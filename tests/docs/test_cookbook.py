"""The questions of docs/cookbook.md: each is answered as SQLite answers it."""

import re
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from annotated import annotate, rows_of
from commands import ROOT, answer_here
from polars.testing import assert_frame_equal
from scored_runs import scored_run

from pipeline import metrics
from pipeline.reports.query import TABLES, query

QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/cookbook.md").read_text(), re.DOTALL)
SIZES = (150, 150)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two shards, one unreadable sample, two sources, and two rounds."""
    losses = np.random.default_rng(0).gamma(1.0, 2.0, sum(SIZES)).tolist()
    shards = [losses[:150], [*losses[150:-1], None]]
    run = scored_run(tmp_path_factory.mktemp("cookbook") / "run", shards)
    sources = ["book" if row % 3 else "web" for row in range(sum(SIZES))]
    annotate(run, "source", rows_of(SIZES, {"value": pl.Series(sources)}))
    for number, count in ((0, 30), (1, 60)):
        how = ("--strategy", "soft", "--num-samples", count, "--seed", number)
        answer_here("select", run, *how, "--out", f"{run}/index/{number:05d}.parquet")
        seconds = {"score_seconds": 2.0, "select_seconds": 1.0, "train_seconds": 20.0 + number}
        progress = {"samples_seen": 30.0 * number, "train_loss": 1.5, "accuracy": 0.5 + number / 4}
        metrics.publish(run, number, seconds | progress)
    return run


@pytest.fixture(scope="module")
def reference(run: str) -> sqlite3.Connection:
    """The tables of the run in SQLite."""
    connection = sqlite3.connect(":memory:")
    connection.create_aggregate("quantile_cont", 2, Quantile)
    for name in ("losses", "index", "corpus", "annotations", "metrics"):
        table = TABLES[name](run).collect()
        marks = ", ".join("?" * table.width)
        columns = ", ".join(f'"{column}"' for column in table.columns)
        connection.execute(f'CREATE TABLE "{name}" ({columns})')
        connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', table.rows())
    return connection


class Quantile:
    """The interpolated quantile, which SQLite lacks."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._share = 0.0

    def step(self, value: float | None, share: float) -> None:
        self._share = share
        if value is not None:
            self._values.append(value)

    def finalize(self) -> float:
        return float(np.quantile(self._values, self._share))


def test_the_page_has_twenty_questions() -> None:
    page = Path(ROOT / "docs/cookbook.md").read_text()
    assert len(QUERIES) == len(re.findall(r"^\*\*\d+\. ", page, re.MULTILINE)) == 20


@pytest.mark.parametrize("sql", QUERIES)
def test_a_question_is_answered_as_by_another_database(
    run: str, reference: sqlite3.Connection, sql: str
) -> None:
    # `index` is a keyword there, and `//` is division of integers by `/`.
    words = re.sub(r"\b(FROM|JOIN) index\b", r'\1 "index"', sql).replace(" // ", " / ")
    answer = query(run, sql)
    assert not answer.is_empty()
    expected = pl.DataFrame(
        reference.execute(words).fetchall(), schema=answer.columns, orient="row"
    )
    assert_frame_equal(answer, expected, check_dtypes=False, check_row_order="ORDER BY" in sql)
