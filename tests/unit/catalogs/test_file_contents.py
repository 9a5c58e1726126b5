"""Files of another kind than their names say."""

import gzip
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from attent_select.errors import InputError
from catalogs.shards import format_of, inspect_shard
from pipeline.corpus.conversion import convert

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGE = b"<!DOCTYPE HTML>\n<html><head><title>Sign in</title></head></html>\n"
DENIED = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
LINES = '{"text": "ä"}\n'


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.parquet", "a.tar", "a.tar.gz", "a.png"],
)
@pytest.mark.parametrize(
    ("contents", "words"),
    [(POINTER, "git lfs pull"), (PAGE, "is a web page"), (DENIED, "is XML")],
    ids=["pointer", "page", "xml"],
)
def test_what_was_not_downloaded_is_named(
    tmp_path: Path, name: str, contents: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(contents)
    with pytest.raises(InputError, match=words) as caught:
        convert([str(path)], to=str(tmp_path / "out"), shard_format="parquet")
    assert str(caught.value).startswith(f"{path} is ")
    assert not list(tmp_path.glob("out*"))
    if name.endswith((".parquet", ".tar", ".gz")) and "json" not in name:
        with pytest.raises(InputError, match=words):
            inspect_shard(str(path), format_of(str(path)))


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("a.jsonl", LINES.encode("utf-16"), "text in UTF-16"),
        ("a.json", LINES.encode("utf-16"), "text in UTF-16"),
        ("a.csv", "text\nä\n".encode("utf-16"), "text in UTF-16"),
        ("a.jsonl", LINES.encode("latin-1"), "line 1 is not UTF-8"),
        ("a.jsonl", gzip.compress(LINES.encode(), mtime=0), "compressed with gzip"),
        ("a.csv", gzip.compress(b"text\na\n", mtime=0), "compressed with gzip"),
        ("a.tar", gzip.compress(b"\0" * 10240, mtime=0), "compressed with gzip"),
        ("a.parquet", b"PK\x03\x04" + b"\0" * 100, "a ZIP archive"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, name: str, contents: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(InputError, match=words):
        convert([str(tmp_path / name)], to=str(tmp_path / "out"), shard_format="parquet")


def test_files_of_another_format_are_named(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"]})
    feather.write_feather(table, str(tmp_path / "arrow.parquet"))
    with pytest.raises(InputError, match="an Arrow file"):
        inspect_shard(str(tmp_path / "arrow.parquet"), "parquet")
    pq.write_table(table, tmp_path / "a.tar")
    with pytest.raises(InputError, match="a Parquet file"):
        inspect_shard(str(tmp_path / "a.tar"), "webdataset")


def test_a_damaged_file_of_its_own_kind_keeps_its_message(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 100}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-10])
    with pytest.raises(InputError, match="not a complete Parquet file"):
        inspect_shard(str(tmp_path / "a.parquet"), "parquet")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    (tmp_path / "a.tar.gz").write_bytes(archive.getvalue()[:-20])
    with pytest.raises(InputError, match="truncated"):
        inspect_shard(str(tmp_path / "a.tar.gz"), "webdataset")
