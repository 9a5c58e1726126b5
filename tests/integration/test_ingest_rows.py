"""Corpora made in Python: types and order of the rows are kept, errors leave nothing behind."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attent_select.errors import ExistsError, InputError
from catalogs import Corpus
from pipeline import ingest_rows

NUM_ROWS = 50
COLUMNS: dict[str, list[Any]] = {
    "text": [f"text {n} ü" for n in range(NUM_ROWS)],
    "big": [2**63 + n for n in range(NUM_ROWS)],
    "tags": [["a"] * (n % 3) for n in range(NUM_ROWS)],
    "image": [bytes([n]) for n in range(NUM_ROWS)],
}
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("big", pa.uint64()),
        ("tags", pa.list_(pa.string())),
        ("image", pa.binary()),
    ]
)
TABLE = pa.table(COLUMNS, schema=SCHEMA)
SOURCES: dict[str, Callable[[], Any]] = {
    "arrow": lambda: TABLE,
    "polars": lambda: pl.DataFrame(COLUMNS, schema_overrides={"big": pl.UInt64}),
    "lazy": lambda: pl.DataFrame(COLUMNS, schema_overrides={"big": pl.UInt64}).lazy(),
    "pandas": lambda: pd.DataFrame(COLUMNS).astype({"big": "uint64"}),
}


def read(out: Path) -> pa.Table:
    corpus = Corpus.open(str(out))
    tables = [pq.read_table(shard.uri).select(SCHEMA.names) for shard in corpus.shards]
    assert [len(table) for table in tables] == [20, 20, 10]
    return pa.concat_tables(tables)


@pytest.mark.parametrize("source", SOURCES)
def test_rows_become_shards_with_their_types(source: str, tmp_path: Path) -> None:
    result = ingest_rows(SOURCES[source](), out=str(tmp_path / "out"), shard_samples=20)
    assert (result.num_shards, result.num_samples) == (3, NUM_ROWS)
    table = read(tmp_path / "out")
    assert table.schema.field("big").type == pa.uint64()
    assert table.to_pylist() == TABLE.to_pylist()


def test_dicts_become_shards(tmp_path: Path) -> None:
    rows = TABLE.drop(["big"]).to_pylist()
    ingest_rows(iter(rows), out=str(tmp_path / "out"), shard_samples=20)
    shards = Corpus.open(str(tmp_path / "out")).shards
    assert [row for shard in shards for row in pq.read_table(shard.uri).to_pylist()] == rows


@pytest.mark.parametrize("kind", ["Dataset", "IterableDataset"])
def test_features_of_datasets_are_kept(kind: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    labels = pa.array([n % 2 for n in range(NUM_ROWS)])
    rows = datasets.Dataset.from_polars(pl.from_arrow(TABLE.append_column("label", labels)))
    rows = rows.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    rows = rows.to_iterable_dataset() if kind == "IterableDataset" else rows.select(range(NUM_ROWS))
    ingest_rows(rows, out=str(tmp_path / "out"), shard_samples=20)
    assert read(tmp_path / "out").to_pylist() == TABLE.to_pylist()
    shard = Corpus.open(str(tmp_path / "out")).shards[0]
    loaded = datasets.Features.from_arrow_schema(pq.read_schema(shard.uri))
    assert loaded["label"].names == ["cat", "dog"]


def rows_with_an_error() -> Iterator[dict[str, Any]]:
    yield from ({"a": 1}, {"a": 2})
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (7, InputError, "cannot ingest int"),
        ("text", InputError, "cannot ingest str"),
        ([], InputError, "no rows"),
        ([{"a": 1}, 5], InputError, "row 1 is int"),
        ([{"a": 1}, {"a": "x"}], InputError, "shard-000000"),
        (rows_with_an_error(), KeyError, "mine"),
    ],
)
def test_an_error_leaves_nothing_behind(
    rows: Any, error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        ingest_rows(rows, out=str(tmp_path / "out"), shard_samples=1 if error is KeyError else 10)
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_existing_corpus_is_not_replaced(tmp_path: Path) -> None:
    ingest_rows([{"a": 1}], out=str(tmp_path))
    with pytest.raises(ExistsError, match=r"choose another folder"):
        ingest_rows([{"a": 2}], out=str(tmp_path))
