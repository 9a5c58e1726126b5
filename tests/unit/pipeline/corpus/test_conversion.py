"""Conversion into shards: types, compression, odd characters, files that are left out."""

import codecs
import decimal
import gzip
import io
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attent_select.errors import InputError
from pipeline.corpus.conversion import Conversion, convert


def converted(source: Path, out: Path, *, shard_samples: int = 10) -> pa.Table:
    urls = convert([str(source)], to=str(out), shard_format="parquet", shard_samples=shard_samples)
    return pa.concat_tables([pq.read_table(url) for url in urls])


COLUMNS = {
    "hash": pa.array([2**63 + 5, None, 1], pa.uint64()),
    "price": pa.array(
        [decimal.Decimal("1.10"), None, decimal.Decimal("2.25")], pa.decimal128(9, 2)
    ),
    "when": pa.array([1700000000123456789, None, 0], pa.timestamp("ns", "UTC")),
    "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "nested": pa.array([[{"a": [1]}], None, []], pa.list_(pa.struct({"a": pa.list_(pa.int8())}))),
    "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
    "image": pa.array(
        [{"bytes": b"1", "path": "a"}, None, {"bytes": None, "path": "b"}],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    ),
    "long": pa.array(["a", None, "b"], pa.large_string()),
    "duration": pa.array([1, None, 3], pa.duration("us")),
    "half": pa.array([1.5, None, 2.5], pa.float16()),
}


def test_parquet_keeps_the_types_and_the_metadata_of_its_columns(tmp_path: Path) -> None:
    table = pa.table(COLUMNS).replace_schema_metadata({"huggingface": '{"info": 1}'})
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    expected = pq.read_table(tmp_path / "in" / "a.parquet")
    result = converted(tmp_path / "in", tmp_path / "out", shard_samples=2)
    assert result.schema.equals(expected.schema, check_metadata=True)
    assert result.equals(expected)


@pytest.mark.parametrize("shard_samples", [1, 7, 1024, 1500, 5000])
def test_rows_of_several_files_are_divided_into_shards(tmp_path: Path, shard_samples: int) -> None:
    (tmp_path / "in").mkdir()
    for number, count in enumerate((3, 0, 2000, 1)):
        table = pa.table(
            {"n": pa.array(range(10_000 * number, 10_000 * number + count), pa.int64())}
        )
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet")
    shard_samples = max(shard_samples, 7)
    urls = convert(
        [str(tmp_path / "in")],
        to=str(tmp_path / "out"),
        settings=Conversion("parquet", shard_samples=shard_samples),
    )
    counts = [pq.read_metadata(url).num_rows for url in urls]
    assert counts[:-1] == [shard_samples] * (len(urls) - 1)
    values = [value for url in urls for value in pq.read_table(url)["n"].to_pylist()]
    assert values == [*range(3), *range(20_000, 22_000), 30_000]


def test_a_column_that_a_file_lacks_is_null_and_another_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "in" / "0.parquet")
    pq.write_table(pa.table({"a": [2], "b": ["x"]}), tmp_path / "in" / "1.parquet")
    assert converted(tmp_path / "in", tmp_path / "out").to_pylist() == [
        {"a": 1, "b": None},
        {"a": 2, "b": "x"},
    ]
    pq.write_table(pa.table({"a": ["text"]}), tmp_path / "in" / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet: its columns have other types.*a"):
        converted(tmp_path / "in", tmp_path / "other")


def compressed(data: bytes, suffix: str) -> bytes:
    if suffix.endswith(".gz"):
        return gzip.compress(data)
    return pa.compress(data, codec="zstd", asbytes=True) if suffix.endswith(".zst") else data


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "jsonl.gz", "ndjson.zst", "JSONL"])
def test_json_lines_are_read_under_all_their_names(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "é"}, {"text": "two\n"}]
    data = codecs.BOM_UTF8 + b"\n".join(json.dumps(row).encode() for row in rows)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{suffix}").write_bytes(compressed(data, suffix))
    assert converted(tmp_path / "in", tmp_path / "out").to_pylist() == rows


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst"])
def test_truncated_json_lines_are_named(tmp_path: Path, suffix: str) -> None:
    data = compressed(b'{"text": "x"}\n' * 1000, suffix)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{suffix}").write_bytes(data[:-10])
    with pytest.raises(InputError, match=rf"a\.{suffix}"):
        converted(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (r'{"t": "cut \ud83d"}', {"t": "cut �"}),
        (r'{"t": "\ude00 cut"}', {"t": "� cut"}),
        (r'{"t": "whole \ud83d\ude00"}', {"t": "whole 😀"}),
        (r'{"t": [{"u": "a\uD83Db"}]}', {"t": [{"u": "a�b"}]}),
        (r'{"t": "\\ud83d"}', {"t": "\\ud83d"}),
    ],
)
def test_half_of_a_surrogate_pair_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str, row: dict[str, Any]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("\n" + line + "\n")
    with caplog.at_level(logging.WARNING):
        assert converted(tmp_path / "in", tmp_path / "out").to_pylist() == [row]
    is_named = "a.jsonl, line 2" in caplog.text
    assert is_named == ("�" in json.dumps(row, ensure_ascii=False))


def test_images_of_every_readable_kind_are_converted_and_others_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {"0.tif": "TIFF", "1.jfif": "JPEG", "2.AVIF": "AVIF", "3.dib": "DIB", "4.jpe": "JPEG"}
    for name, kind in kinds.items():
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind)
        path = tmp_path / "in" / f"class {kind}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    (tmp_path / "in" / "raw").mkdir()
    for name in ("a.cr2", "b.cr2", "notes"):
        (tmp_path / "in" / "raw" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        table = converted(tmp_path / "in", tmp_path / "out")
    assert table.num_rows == len(kinds)
    assert set(table["class_name"].to_pylist()) == {f"class {kind}" for kind in kinds.values()}
    assert "2 × .cr2, 1 × notes" in caplog.text
