"""Subsets of files of pandas, polars, Spark and datasets: read by their writers, and equal."""

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import answer_here
from digits import write_index
from polars.testing import assert_frame_equal

from catalogs import Corpus, storage
from catalogs.shards import inspect_shard
from pipeline.corpus.conversion import convert

ADDED = ["weight", "loss", "shard_id", "row"]


def subset_of(path: Path, folder: Path, to: str = "parquet") -> dict[str, Any]:
    """Make a corpus of one file, and export all of its rows to `folder`/out."""
    stored = storage.info(str(path))
    assert stored is not None
    inspected = [(stored, "parquet", inspect_shard(str(path), "parquet"))]
    Corpus.from_inspections(inspected).save(str(folder / "run"))
    index = write_index(folder / "index.parquet", Corpus.open(str(folder / "run")))
    options = ("--to", to, "--corpus", folder / "run", "--order", "stored")
    return answer_here("export-subset", index.url, "--out", folder / "out", *options)


FRAMES = {
    "nullable": lambda: pd.DataFrame(
        {
            "number": pd.array([1, None], "Int64"),
            "flag": pd.array([True, None], "boolean"),
            "text": pd.array(["x", None], "string"),
        }
    ),
    "times": lambda: pd.DataFrame(
        {
            "at": pd.to_datetime(["2020-01-01", "2021-07-01"]).tz_localize("Europe/Berlin"),
            "day": [datetime.date(2020, 1, 1), None],
            "took": pd.to_timedelta([1, 2], "s"),
        }
    ),
    "index": lambda: pd.DataFrame(
        {"a": [1, 2]}, index=pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["i", "j"])
    ),
    "categories": lambda: pd.DataFrame(
        {"level": pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"], ordered=True)}
    ),
    "nested": lambda: pd.DataFrame(
        {"list": [[1, 2], []], "struct": [{"x": 1}, {"x": 2}], "price": [Decimal("1.5")] * 2}
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_pandas_reads_its_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    FRAMES[name]().to_parquet(path)
    subset_of(path, tmp_path)
    exported = pd.read_parquet(tmp_path / "out" / "part-00000.parquet").drop(columns=ADDED)
    pd.testing.assert_frame_equal(exported, pd.read_parquet(path))


def test_polars_reads_its_frame(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "kind": pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
            "time": [datetime.time(1, 2), None],
            "took": [datetime.timedelta(1), None],
            "list": [[1, None], []],
            "pair": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int16, 2)),
            "price": pl.Series([Decimal("1.25"), None]),
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    subset_of(tmp_path / "a.parquet", tmp_path)
    exported = pl.read_parquet(tmp_path / "out" / "part-00000.parquet").drop(ADDED)
    assert_frame_equal(exported, pl.read_parquet(tmp_path / "a.parquet"))
    assert_frame_equal(exported, frame)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_deprecated_int96_timestamps": True},
        {"use_compliant_nested_type": False},
        {"flavor": "spark"},
        {"version": "1.0", "compression": "gzip"},
        {"data_page_version": "2.0", "compression": "lz4"},
    ],
    ids=str,
)
def test_files_as_spark_writes_them_keep_types_and_values(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    table = pa.table(
        {
            "at": pa.array([0, -(10**15), None], pa.timestamp("us")),
            "list": [[1], None, []],
            "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
            "nested": [{"x": None}, {"x": [{"y": 1}]}, None],
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, store_schema=False, **settings)
    subset_of(path, tmp_path)
    written = pq.read_table(path)
    exported = pq.read_table(tmp_path / "out" / "part-00000.parquet").drop_columns(ADDED)
    assert exported.schema.equals(written.schema)
    assert exported.equals(written)
    shards = convert([str(path)], to=str(tmp_path / "new"), shard_format="parquet", shard_samples=2)
    assert pa.concat_tables([pq.read_table(url) for url in shards]).equals(written)


def test_datasets_reads_its_nested_features(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "pair": datasets.Translation(["en", "de"]),
            "chat": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "long": datasets.LargeList(datasets.Value("int8")),
            "text": datasets.Value("large_string"),
            "cube": datasets.Array3D((1, 2, 2), "uint8"),
            "point": datasets.List(datasets.Value("float32"), length=2),
        }
    )
    row = {
        "pair": {"en": "x", "de": "y"},
        "chat": [{"role": "user", "content": "c"}],
        "long": [1, 2],
        "text": "z",
        "cube": [[[1, 2], [3, 4]]],
        "point": [1.5, 2.5],
    }
    written = datasets.Dataset.from_list([row] * 3, features=features)
    written.to_parquet(tmp_path / "a.parquet")
    answer = subset_of(tmp_path / "a.parquet", tmp_path, "hf")
    line = answer["load"].removesuffix(")") + f", cache_dir={str(tmp_path / 'cache')!r})"
    loaded = eval(line, {"datasets": datasets}).select_columns(list(features))
    assert loaded.features == features
    assert loaded.to_list() == written.to_list()
