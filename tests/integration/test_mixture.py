"""Corpora that are mixtures: names in the manifest and the samples, weights as quotas."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from commands import answer_here
from digits import samples, write_corpus
from small_runs import small_run

from attent_select.errors import InputError
from catalogs import Corpus, storage
from catalogs.shards import inspect_shard
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.query import query
from pipeline.runs.setup import ingest_corpora

COUNTS = {"web": 60, "code": 20, "books": 40}


@pytest.fixture
def parts(tmp_path: Path) -> list[dict[str, Any]]:
    for name, count in COUNTS.items():
        write_corpus(tmp_path / name, samples(count), num_shards=2)
    weights = {"web": 0.5, "code": 0.25}
    return [
        {"name": name, "shards": str(tmp_path / name), "weight": weights.get(name)}
        for name in COUNTS
    ]


def parse(folder: Path, corpus: Any, **replaced: Any) -> run_config.RunConfig:
    values = small_run(folder / "run", folder, **replaced) | {"corpus": corpus}
    del values["evaluation"]
    values.setdefault("selection", {"strategy": "hard"})
    return run_config.parse(values)


def test_names_are_columns_and_weights_are_quotas(
    tmp_path: Path, parts: list[dict[str, Any]], client: Client
) -> None:
    config = parse(tmp_path, parts)
    assert config.selection.composition.by == "name"
    assert config.selection.composition.quotas == {"web": 0.5, "code": 0.25, "books": 0.25}
    run_config.freeze(config)
    assert run_config.load(config.run) == config
    ingest_corpora(config, cluster=lambda: client)
    ingest_corpora(config, cluster=lambda: client)
    plain = corpus_without_names(tmp_path)
    corpus = Corpus.open(config.run)
    assert corpus.corpus_id == plain.corpus_id
    assert corpus.names == ("books", "books", "code", "code", "web", "web")
    by_name = "SELECT name, COUNT(*) AS n FROM samples GROUP BY name"
    assert dict(query(config.run, by_name).rows()) == COUNTS
    manifest = query(config.run, "SELECT name FROM corpus ORDER BY shard_id")
    assert tuple(manifest["name"]) == corpus.names
    index = tmp_path / "index.parquet"
    condition = ("--where", "name <> 'books'", "--strategy", "uniform", "--num-samples", 80)
    answer_here("select", config.run, *condition, "--out", index)
    assert set(pl.read_parquet(index)["shard_id"]) == {2, 3, 4, 5}


def corpus_without_names(folder: Path) -> Corpus:
    objects = storage.expand([str(folder / name) for name in COUNTS])
    return Corpus.from_inspections(
        (stored, "parquet", inspect_shard(stored.url, "parquet")) for stored in objects
    )


def test_what_the_selection_says_is_kept(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    own = {"strategy": "hard", "by": "name", "quotas": "equal"}
    assert parse(tmp_path, parts, selection=own).selection.composition.quotas == "equal"
    unweighted = [{**part, "weight": None} for part in parts]
    assert parse(tmp_path, unweighted).selection.composition.by is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": 1.5}, "weight"),
        ({"name": "code"}, "two parts are named 'code'"),
        ({"shards": []}, "has no shards"),
        ({"wieght": 1}, "wieght"),
        ({"weight": 0.75}, "nothing is left for books"),
    ],
)
def test_a_wrong_part_is_named(
    tmp_path: Path, parts: list[dict[str, Any]], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse(tmp_path, [parts[0] | changes, *parts[1:]])
    assert words in str(caught.value)


def test_a_shard_in_two_parts_is_refused(
    tmp_path: Path, parts: list[dict[str, Any]], client: Client
) -> None:
    config = parse(tmp_path, [parts[0], {**parts[1], "shards": parts[0]["shards"]}])
    with pytest.raises(InputError, match=r"is a shard of 'web' and of 'code'"):
        ingest_corpora(config, cluster=lambda: client)
