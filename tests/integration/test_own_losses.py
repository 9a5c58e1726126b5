"""Losses measured by other programs: selected, streamed and checked by the command line."""

import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer_here
from typer.testing import CliRunner

from catalogs import Corpus, IndexFile, LossCatalog
from catalogs.shards import inspect_shard
from catalogs.storage import info
from pipeline.cli.app import app

SIZES = (5, 40, 19)
IDS = [[f"doc-{shard}-{row}" for row in range(size)] for shard, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards with a name and a number for every sample."""
    folder = tmp_path_factory.mktemp("corpus")
    inspected = []
    for shard, names in enumerate(IDS):
        url = str(folder / f"{shard}.parquet")
        numbers = [100 * shard + row for row in range(len(names))]
        pq.write_table(pa.table({"name": names, "number": numbers}), url)
        stored = info(url)
        assert stored is not None
        inspected.append((stored, "parquet", inspect_shard(url, "parquet")))
    Corpus.from_inspections(inspected).publish(str(folder / "corpus"))
    return folder / "corpus"


def losses(folder: Path, columns: dict[str, list[Any]], *, shuffle: bool = True) -> Path:
    frame = pl.DataFrame(columns)
    frame = frame.sample(fraction=1.0, shuffle=True, seed=3) if shuffle else frame
    frame.write_parquet(folder / "mine.parquet")
    return folder / "mine.parquet"


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def streams(corpus: Path, index: Path) -> int:
    answer = answer_here("stream", corpus, "--index", index, "--batch-size", 4)
    return int(answer["num_samples"])


def hardest(index: Path, count: int) -> list[tuple[int, int]]:
    rows = pl.read_parquet(index)
    assert len(rows) == count
    return sorted(rows.select("shard_id", "row").rows())


def rows_of(ids: list[str]) -> list[tuple[int, int]]:
    return sorted((int(one.split("-")[1]), int(one.split("-")[2])) for one in ids)


def test_losses_by_shard_and_row_make_an_index_that_streams(corpus: Path, tmp_path: Path) -> None:
    rows = [(shard, row) for shard, size in enumerate(SIZES) for row in range(size)]
    mine = losses(
        tmp_path,
        {
            "shard_id": [shard for shard, _ in rows],
            "row": [row for _, row in rows],
            "nll": [float(row) for _, row in rows],
        },
    )
    index = tmp_path / "index.parquet"
    select = ("select", mine, "--loss", "nll", "--strategy", "hard", "--num-samples", 10)
    answer_here(*select, "--out", index)
    assert hardest(index, 10) == [(1, row) for row in range(30, 40)]
    assert streams(corpus, index) == 10
    stamped = tmp_path / "stamped.parquet"
    answer_here(*select, "--out", stamped, "--corpus", corpus)
    assert (
        IndexFile.open(str(stamped)).provenance["corpus_id"] == Corpus.open(str(corpus)).corpus_id
    )
    assert streams(corpus, stamped) == 10


@pytest.mark.parametrize("column", ["name", "number"])
def test_losses_by_an_id_are_matched_to_the_corpus_and_keep_their_ids(
    corpus: Path, tmp_path: Path, column: str
) -> None:
    names = [name for shard in IDS for name in shard]
    values = names if column == "name" else [100 * s + r for s, r in rows_of(names)]
    mine = losses(tmp_path, {column: values, "score": [float(k) for k in range(len(names))]})
    index = tmp_path / "index.parquet"
    answer_here(
        *("select", mine, "--id", column, "--loss", "score", "--corpus", corpus),
        *("--strategy", "hard", "--num-samples", 7, "--out", index),
    )
    assert hardest(index, 7) == rows_of(names[-7:])
    assert pl.read_parquet(index)["id"].to_list() == values[-7:]
    assert streams(corpus, index) == 7


def test_losses_beside_their_samples_need_no_corpus_to_be_selected(
    corpus: Path, tmp_path: Path
) -> None:
    names = [name for shard in IDS for name in shard]
    mine = losses(tmp_path, {"name": names, "loss": [float(k) for k in range(len(names))]})
    index = tmp_path / "index.parquet"
    answer_here(
        *("select", mine, "--id", "name", "--strategy", "hard", "--num-samples", 3),
        *("--out", index),
    )
    assert sorted(pl.read_parquet(index)["id"].to_list()) == names[-3:]
    # Its samples are numbered by their position in another file than those of the corpus.
    said = refusal("stream", corpus, "--index", index, "--batch-size", 4)
    assert "numbers the samples of 1 files" in said
    assert "--corpus" in said


def catalog_rows(corpus: Path) -> dict[tuple[int, int], float | None]:
    rows = LossCatalog(str(corpus)).latest().select("shard_id", "row", "loss").collect()
    return {(shard, row): loss for shard, row, loss in rows.rows()}


def test_imported_losses_are_a_snapshot_that_later_ones_update(
    corpus: Path, tmp_path: Path
) -> None:
    own = tmp_path / "corpus"
    Corpus.open(str(corpus)).publish(str(own))
    some = [(name, 2.0 + number) for number, name in enumerate(IDS[1])] + [("doc-0-3", math.nan)]
    file = losses(tmp_path, {"name": [n for n, _ in some], "nll": [loss for _, loss in some]})
    answer = answer_here("import-losses", own, file, "--id", "name", "--loss", "nll")
    assert (answer["round"], answer["imported"], answer["without_loss"]) == (0, 40, 24)
    first = catalog_rows(own)
    assert len(first) == sum(SIZES)
    assert all(first[1, row] == 2.0 + row for row in range(40))
    assert first[0, 3] is None
    status = LossCatalog(str(own)).latest().filter(shard_id=0, row=3).select("status").collect()
    assert status.item() == "nonfinite"
    columns = {"shard_id": [1, 2], "row": [0, 5], "loss": [0.5, 7.0], "num_units": [3, 4]}
    answer = answer_here("import-losses", own, losses(tmp_path, columns))
    assert (answer["round"], answer["imported"], answer["kept"]) == (1, 2, 39)
    assert catalog_rows(own) == first | {(1, 0): 0.5, (2, 5): 7.0}
    chosen = answer_here(
        "select", own, "--strategy", "hard", "--num-samples", 3, "--out", tmp_path / "index.parquet"
    )
    assert chosen["threshold"] == 39.0
    assert hardest(tmp_path / "index.parquet", 3) == [(1, 37), (1, 38), (1, 39)]


def test_losses_that_cannot_be_imported_change_nothing(corpus: Path, tmp_path: Path) -> None:
    own = tmp_path / "corpus"
    Corpus.open(str(corpus)).publish(str(own))
    rows = {"shard_id": [0, 0], "row": [1, 2], "loss": [1.0, 2.0]}
    for columns, words in (
        (rows | {"row": [1, 1]}, "twice"),
        (rows | {"row": [1, 5]}, "no row 5"),
        (rows | {"loss": ["a", "b"]}, "expected numbers"),
        ({"shard_id": [0, 0], "row": [1, 2], "nll": [1.0, 2.0]}, "loss"),
    ):
        assert words in refusal("import-losses", own, losses(tmp_path, columns))
    assert LossCatalog(str(own)).rounds() == []
    answer_here("import-losses", own, losses(tmp_path, rows))
    assert "--round" in refusal("import-losses", own, losses(tmp_path, rows), "--round", 0)


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"shard_id": [0, 9], "row": [0, 0], "loss": [1.0, 2.0]}, (), "unknown shard 9"),
        ({"shard_id": [0, 0], "row": [0, 5], "loss": [1.0, 2.0]}, (), "no row 5 in shard 0"),
        ({"name": ["a", "doc-0-1"], "loss": [1.0, 2.0]}, ("--id", "name"), "lacks 1 of the ids"),
        ({"name": ["a", "a"], "loss": [1.0, 2.0]}, ("--id", "name"), "'a' occurs twice"),
        ({"name": ["a", None], "loss": [1.0, 2.0]}, ("--id", "name"), "a row has no id"),
        ({"number": ["1", "2"], "loss": [1.0, 2.0]}, ("--id", "number"), "expected the same type"),
        ({"key": ["a", "b"], "loss": [1.0, 2.0]}, ("--id", "key"), "has no such column"),
        ({"name": ["a", "b"], "loss": [1.0, 2.0]}, ("--id", "nome"), "has no column 'nome'"),
        ({"name": ["a", "b"], "loss": [1.0, 2.0]}, ("--loss", "loss"), "with --id"),
    ],
)
def test_losses_of_another_corpus_are_refused(
    corpus: Path, tmp_path: Path, columns: dict[str, Any], options: tuple[str, ...], expected: str
) -> None:
    mine = losses(tmp_path, columns)
    index = tmp_path / "index.parquet"
    select = ("select", mine, "--corpus", corpus, *options, "--num-samples", 1, "--out", index)
    assert expected in refusal(*select)
    assert not index.exists()


def test_an_index_of_unknown_origin_is_refused_where_its_rows_do_not_exist(
    corpus: Path, tmp_path: Path
) -> None:
    mine = losses(tmp_path, {"shard_id": [0, 0], "row": [0, 30], "loss": [1.0, 2.0]})
    index = tmp_path / "index.parquet"
    answer_here("select", mine, "--num-samples", 2, "--out", index)
    said = refusal("stream", corpus, "--index", index, "--batch-size", 4)
    assert "has row 30 of shard 0" in said
