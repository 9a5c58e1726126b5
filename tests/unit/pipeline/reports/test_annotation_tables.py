"""Annotations in the report: the selected samples against the corpus, and both sides of the cut."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from digits import VIT, samples, write_corpus

from attent_select import Composition, select
from attent_select.strategies.key import Key
from catalogs import Corpus, IndexFile
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.reports.annotation_tables import AnnotatedRows, distributions, samples_beside_cut
from pipeline.reports.html_report import write_report
from pipeline.reports.query import query
from tests.annotated import annotate, rows_of

NUM_SAMPLES = 100


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose second round selected the 20 samples with the largest `relevance`."""
    folder = tmp_path_factory.mktemp("annotated")
    run = str(folder / "run")
    corpus = write_corpus(folder / "shards", samples(NUM_SAMPLES))
    corpus.save(run)
    sizes = [shard.num_samples for shard in corpus.shards]
    number = pl.Series(np.arange(NUM_SAMPLES), dtype=pl.Float32)
    values = rows_of(sizes, {"value": number})
    annotate(run, "relevance", values)
    source = pl.when(pl.col("value") >= 70).then(pl.lit("<b>")).otherwise(pl.lit("log"))
    annotate(run, "source", values.with_columns(value=source))
    config = {
        "run": run,
        "corpus": {"shards": [str(folder / "shards")]},
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": VIT,
        "selection": {"strategy": "key", "key": "relevance", "explore": 0.0},
    }
    Path(Layout(run).config).write_text(yaml.safe_dump(config))
    rows = values.rename({"value": "relevance"})
    for round_number, ratio in enumerate((1.0, 0.2)):
        chosen = select(
            rows, strategy=Key("relevance"), ratio=ratio, composition=Composition(explore=0.0)
        )
        facts = {"corpus_id": corpus.corpus_id}
        IndexFile.write(Layout(run).index(round_number), chosen.rows, provenance=facts)
        shown = {"samples_seen": 20.0, "train_loss": 1.0, "train_seconds": 1.0}
        metrics.publish(run, round_number, shown)
    return run


def provenance(run: str) -> dict[str, Any]:
    return {"corpus_id": Corpus.open(run).corpus_id}


def annotated(run: str) -> AnnotatedRows:
    rows = AnnotatedRows.of(run)
    assert rows is not None
    assert rows.round_number == 1
    return rows


def test_the_shares_of_the_selection_are_beside_those_of_the_corpus(run: str) -> None:
    tables = dict(distributions(annotated(run)))
    assert tables.keys() == {"relevance", "source"}
    assert dict(tables["source"].filter(group="corpus").select("value", "share").iter_rows()) == {
        "<b>": pytest.approx(0.3),
        "log": pytest.approx(0.7),
    }
    assert tables["source"].filter(group="selected")["value"].to_list() == ["<b>"]
    sums = tables["relevance"].group_by("group").agg(pl.col("share").sum()).sort("group")
    assert sums.rows() == [("corpus", pytest.approx(1)), ("selected", pytest.approx(1))]
    assert tables["relevance"].filter(group="selected")["value"].min() > 75


def test_the_samples_nearest_the_cut_come_from_both_of_its_sides(run: str) -> None:
    taken, left_out = samples_beside_cut(
        run, annotated(run), name="relevance", columns=("image",), count=3
    )
    assert [one.value for one in taken] == [82, 81, 80]
    assert [one.value for one in left_out] == [79, 78, 77]
    assert left_out[0].sample["image"] == samples(80)[79]["image"]


def test_rows_of_the_uniform_draw_are_on_neither_side_of_the_cut(run: str, tmp_path: Path) -> None:
    explored = str(tmp_path / "run")
    shutil.copytree(run, explored)
    Path(Layout(explored).index(1)).unlink()
    candidates = annotated(run).rows.lazy().select("shard_id", "row", "relevance")
    chosen = select(
        candidates, strategy=Key("relevance"), ratio=0.2, composition=Composition(explore=0.5)
    )
    IndexFile.write(Layout(explored).index(1), chosen.rows, provenance=provenance(run))
    shown = annotated(explored)
    assert shown.rows["is_selected"].sum() == 20
    taken, left_out = samples_beside_cut(
        explored, shown, name="relevance", columns=("image",), count=2
    )
    assert [one.value for one in taken] == [91, 90]
    assert all(one.value < 90 for one in left_out)
    origins = query(explored, "SELECT round, origin, count(*) AS n FROM index GROUP BY ALL")
    assert sorted(origins.rows(), key=str) == [(0, None, 100), (1, 0, 10), (1, 1, 10)]


def test_duplicates_are_not_shown_as_just_left_out(run: str, tmp_path: Path) -> None:
    deduplicated = str(tmp_path / "run")
    shutil.copytree(run, deduplicated)
    number = pl.Series(np.arange(NUM_SAMPLES))
    sizes = [shard.num_samples for shard in Corpus.open(run).shards]
    cluster = {"value": number // 2, "rank": (number % 2).cast(pl.UInt32)}
    annotate(deduplicated, "pairs", rows_of(sizes, cluster))
    taken, left_out = samples_beside_cut(
        deduplicated,
        annotated(deduplicated),
        name="relevance",
        columns=("image",),
        count=2,
        rank_column="pairs_rank",
    )
    assert [one.value for one in taken] == [82, 80]
    assert [one.value for one in left_out] == [78, 76]


def test_a_selection_of_the_smallest_values_is_cut_at_its_largest(run: str) -> None:
    rows = annotated(run)
    smallest = rows.rows.with_columns(is_selected=pl.col("relevance") < 20)
    reversed_rows = AnnotatedRows(smallest, rows.annotations, 1)
    taken, left_out = samples_beside_cut(
        run, reversed_rows, name="relevance", columns=("image",), count=2
    )
    assert [one.value for one in taken] == [19, 18]
    assert [one.value for one in left_out] == [21, 20]


def test_the_report_shows_them_and_escapes_their_values(run: str) -> None:
    page = Path(write_report(run)).read_text()
    for title in ("relevance: selected in round 1", "source: selected in round 1"):
        assert title in page
    assert "Just selected by relevance" in page
    assert "Just left out by relevance" in page
    assert "<b>" not in page.rpartition("const specs")[2]
