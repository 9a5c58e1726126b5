"""Conversion of what people have: mixed JSON, image folders with metadata and splits, tars."""

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digits import samples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attent_select.errors import InputError
from catalogs import Corpus, storage
from catalogs.formats.webdataset import Webdataset
from catalogs.shards import inspect_shard
from pipeline.corpus.column_types import JSON, column_of, common_types, storable_types, types_of
from pipeline.corpus.conversion import Conversion, convert


def converted(source: Path | str, out: Path, kind: str = "parquet", **settings: Any) -> list[str]:
    return convert([str(source)], to=str(out), settings=Conversion(kind, **settings))


def rows_of(urls: list[str]) -> list[dict[str, Any]]:
    return [row for url in urls for row in pq.read_table(url).to_pylist()]


def write_lines(folder: Path, *rows: Any, name: str = "a.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=5,
)


def without_nulls(value: Any) -> Any:
    """An absent key is null in a column; an integer among floats is an equal float."""
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return value


@given(first=st.lists(values, max_size=3), second=st.lists(values, max_size=3))
def test_a_column_of_any_values_keeps_them(first: list[Any], second: list[Any]) -> None:
    parts = [[{"x": value} for value in part] for part in (first, second)]
    types = storable_types(common_types(types_of(parts[0]), types_of(parts[1])))
    dtype = types.get("x", pa.null())
    try:
        column = column_of([*first, *second], dtype)
    except ValueError:  # named with its line by the caller
        assert any(abs(number) > 2**53 for number in _integers([first, second]))
        return
    kept = column.to_pylist()
    if dtype == JSON:
        kept = [None if text is None else json.loads(text) for text in kept]
    assert without_nulls(kept) == without_nulls([*first, *second])


def _integers(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _integers(item)]
    return [value] if isinstance(value, int) else []


def test_values_without_a_common_type_are_kept_as_json_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"id": 1, "score": 1, "call": {"arguments": {"x": 1}}, "meta": {}},
        {"id": 2, "score": 2.5, "call": {"arguments": {"x": "a"}}, "meta": {}},
    ]
    with caplog.at_level(logging.WARNING):
        urls = converted(write_lines(tmp_path / "in", *rows), tmp_path / "out")
    schema = pq.read_schema(urls[0])
    assert (schema.field("score").type, schema.field("id").type) == (pa.float64(), pa.int64())
    assert schema.field("call").type == schema.field("meta").type == JSON
    assert [json.loads(row["call"]) for row in rows_of(urls)] == [row["call"] for row in rows]
    assert "no common type: call, meta" in caplog.text


def test_absent_keys_of_objects_are_null_unless_stored_as_json(tmp_path: Path) -> None:
    rows = [{"call": {"query": "x"}}, {"call": {"limit": 1}}]
    source = write_lines(tmp_path / "in", *rows)
    typed = rows_of(converted(source, tmp_path / "typed"))
    assert [row["call"] for row in typed] == [
        {"query": "x", "limit": None},
        {"query": None, "limit": 1},
    ]
    texts = rows_of(converted(source, tmp_path / "json", schema=("call=json",)))
    assert [json.loads(row["call"]) for row in texts] == [row["call"] for row in rows]


def test_ints_and_floats_may_be_thousands_of_lines_apart(tmp_path: Path) -> None:
    rows = [{"x": number} for number in range(3000)] + [{"x": 0.5, "late": [1]}]
    urls = converted(write_lines(tmp_path / "in", *rows), tmp_path / "out", shard_samples=1000)
    result = rows_of(urls)
    assert [row["x"] for row in result] == [row["x"] for row in rows]
    assert [row["late"] for row in result] == [None] * 3000 + [[1]]
    assert len({pq.read_schema(url) for url in urls}) == 1


def test_a_json_file_may_be_one_array(tmp_path: Path) -> None:
    write_lines(tmp_path / "in", [{"a": 1}, {"a": 2}], name="a.json")
    write_lines(tmp_path / "in", {"a": 3}, {"a": 4}, name="b.json")
    assert [row["a"] for row in rows_of(converted(tmp_path / "in", tmp_path / "out"))] == [
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize(("num_files", "warns"), [(1, True), (2, True), (3, False)])
def test_an_object_around_the_samples_is_one_sample_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_files: int, *, warns: bool
) -> None:
    for number, rows in enumerate([[{"a": 1}, {"a": 2}], [{"a": 3}], 4][:num_files]):
        (tmp_path / f"{number}.json").write_text(json.dumps({"data": rows}))
    convert([str(tmp_path)], to=str(tmp_path / "out"), shard_format="parquet")
    said = "every file is one sample" in caplog.text and "jq .data" in caplog.text
    assert said == warns


def test_empty_objects_are_samples_if_another_has_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{}\n{"a": 1}\n{}\n')
    (url,) = convert([str(tmp_path)], to=str(tmp_path / "out"), shard_format="parquet")
    assert pq.read_table(url)["a"].to_pylist() == [None, 1, None]
    (tmp_path / "b.jsonl").write_text("{}\n{}\n")
    with pytest.raises(InputError, match=r"every object is empty \(\{\}\)"):
        convert([str(tmp_path / "b.jsonl")], to=str(tmp_path / "b"), shard_format="parquet")


def test_columns_are_dropped_and_get_the_types_that_the_user_gives(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in", {"id": 1, "x": 1, "y": {"a": 1}})
    settings = {"drop": ("id",), "schema": ("x=float32", "y=json")}
    (url,) = converted(source, tmp_path / "out", **settings)
    assert pq.read_table(url).to_pylist() == [{"x": 1.0, "y": '{"a":1}'}]
    assert pq.read_schema(url).field("x").type == pa.float32()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop": ("z",)}, r"--drop: no column 'z'; there are id, x"),
        ({"drop": ("id", "x")}, r"--drop: no column is left"),
        ({"schema": ("z=int64",)}, r"--schema: no column 'z'"),
        ({"schema": ("x",)}, r"--schema x: .*expected"),
        ({"schema": ("x=number",)}, r"--schema x=number: unknown type 'number'"),
        ({"schema": ("x=int8",)}, r"a\.jsonl, line 2: column 'x' is not int8: .*--schema x=json"),
        ({"row_group_samples": 0}, r"--row-group-samples: 0 is not a positive number"),
    ],
)
def test_settings_that_do_not_fit_are_named_and_leave_nothing(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    source = write_lines(tmp_path / "in", {"id": 1, "x": 1}, {"id": 2, "x": 1000})
    with pytest.raises(InputError, match=message):
        converted(source, tmp_path / "out", **settings)
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize(("group", "expected"), [(7, [7, 7, 6]), (None, [20])])
def test_row_groups_have_the_requested_size(
    tmp_path: Path, group: int | None, expected: list[int]
) -> None:
    source = write_lines(tmp_path / "in", *({"x": number} for number in range(20)))
    (url,) = converted(source, tmp_path / "out", row_group_samples=group)
    metadata = pq.read_metadata(url)
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes == expected


def test_a_shard_is_the_same_whatever_was_written_before(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, count in enumerate((5, 3000, 700)):
        table = pa.table({"x": range(count), "t": [f"{number} {row}" for row in range(count)]})
        pq.write_table(table, tmp_path / "in" / f"{number}.parquet", row_group_size=501)
    urls = converted(tmp_path / "in", tmp_path / "out", shard_samples=300)
    whole = {url: Path(url).read_bytes() for url in urls}
    for url in urls[1::3]:
        Path(url).unlink()
    assert converted(tmp_path / "in", tmp_path / "out", shard_samples=300) == urls
    assert {url: Path(url).read_bytes() for url in urls} == whole


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(samples(1)[0]["image"])


def test_metadata_beside_images_gives_their_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "in", "a.png", "x/b.png", "c.png")
    rows = [
        {"file_name": "x/b.png", "text": "b", "boxes": [[1, 2]]},
        {"file_name": "a.png", "text": None},
    ]
    write_lines(tmp_path / "in", *rows, name="metadata.jsonl")
    with caplog.at_level(logging.WARNING):
        result = rows_of(converted(tmp_path / "in", tmp_path / "out"))
    image = samples(1)[0]["image"]
    assert result == [
        {"image": image, "text": "b", "boxes": [[1, 2]]},
        {"image": image, "text": None, "boxes": None},
    ]
    assert "left out 1 images" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"file_name": "z.png"}, r"metadata\.jsonl, line 1: file_name is 'z\.png': expected"),
        ({"text": "x"}, r"line 1: file_name is None"),
        ({"file_name": "a.png", "image": 1}, r"line 1: rename the column 'image'"),
        ([1], r"line 1: expected a JSON object"),
    ],
)  # fmt: skip
def test_metadata_that_does_not_fit_is_named(tmp_path: Path, line: Any, message: str) -> None:
    write_images(tmp_path / "in", "a.png")
    write_lines(tmp_path / "in", line, name="metadata.jsonl")
    with pytest.raises(InputError, match=message):
        converted(tmp_path / "in", tmp_path / "out")


def test_only_the_training_split_of_an_image_folder_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(
        tmp_path / "in", "train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "val/cat/3.png"
    )
    with caplog.at_level(logging.WARNING):
        result = rows_of(converted(tmp_path / "in", tmp_path / "out"))
    assert [(row["class_name"], row["label"]) for row in result] == [("cat", 0), ("dog", 1)]
    assert "left out 1 files of the test split" in caplog.text
    test = rows_of(converted(tmp_path / "in" / "test", tmp_path / "other"))
    assert [row["class_name"] for row in test] == ["cat"]


def test_images_in_the_folder_of_a_split_have_no_class(tmp_path: Path) -> None:
    write_images(tmp_path / "in", "train/0.png", "train/1.png")
    result = rows_of(converted(tmp_path / "in", tmp_path / "out"))
    assert [list(row) for row in result] == [["image"], ["image"]]


def test_tars_become_parquet_with_their_keys(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for key, members in {
            "x/1": {"jpg": b"1", "cls": b"3", "json": b'{"a": 1}'},
            "x/2": {"jpg": b"2", "json": b'{"a": "b"}'},
        }.items():
            for ext, data in members.items():
                member = tarfile.TarInfo(f"{key}.{ext}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    assert rows_of(converted(tmp_path / "in", tmp_path / "out")) == [
        {"__key__": "x/1", "cls": 3, "jpg": b"1", "json": '{"a":1}'},
        {"__key__": "x/2", "cls": None, "jpg": b"2", "json": '{"a":"b"}'},
    ]
    stored = storage.info(str(tmp_path / "in" / "a.tar"))
    assert stored is not None
    corpus = Corpus.from_inspections(
        [(stored, "webdataset", inspect_shard(stored.url, "webdataset"))]
    )
    read = corpus.read(0, rows=[1], columns=["__key__", "jpg"])
    assert read.values == {"__key__": ["x/2"], "jpg": [b"2"]}
    assert corpus.read(0, rows=[0], columns=["__key__"]).values == {"__key__": ["x/1"]}


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def write_structs(folder: Path, *images: Any) -> Path:
    folder.mkdir()
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG")
    rows = [image and {**image, "bytes": image["bytes"] and file.getvalue()} for image in images]
    table = pa.table({"image": pa.array(rows, IMAGE), "label": pa.array(range(len(rows)))})
    pq.write_table(table, folder / "a.parquet")
    return folder


def test_image_structs_become_images_in_tars(tmp_path: Path) -> None:
    source = write_structs(tmp_path / "in", {"bytes": b"x", "path": "a.png"}, None)
    (url,) = converted(source, tmp_path / "out", "webdataset")
    with tarfile.open(url) as archive:
        names = archive.getnames()
    assert names == ["000000.image.png", "000000.label.cls", "000001.label.cls"]
    assert Webdataset().inspect(url).num_samples == 2


def test_an_image_that_is_only_a_path_is_named(tmp_path: Path) -> None:
    source = write_structs(tmp_path / "in", {"bytes": None, "path": "/data/a.png"})
    with pytest.raises(InputError, match=r"only the path '/data/a\.png', without bytes"):
        converted(source, tmp_path / "out", "webdataset")


def test_keys_of_tars_are_those_of_new_tars(tmp_path: Path) -> None:
    write = Webdataset().write
    (tmp_path / "in").mkdir()
    for name, keys in {"a": ["x/1", "x/2"], "b": ["x/2", "y"]}.items():
        rows = [{"__key__": key, "txt": f"{name} {key}"} for key in keys]
        write(tmp_path / "in" / f"{name}.tar", rows)
    (url,) = converted(tmp_path / "in", tmp_path / "out", "webdataset")
    with tarfile.open(url) as archive:
        # A key that another file has as well is made unique.
        assert archive.getnames() == ["x/1.txt", "x/2.txt", "x/2-000002.txt", "y.txt"]
    with pytest.raises(InputError, match=r"__key__ 'a\.b', expected a name without dots"):
        write(tmp_path / "c.tar", [{"__key__": "a.b", "txt": ""}])


def test_a_member_that_is_not_of_its_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for number, data in enumerate([b"1", b"x"]):
            member = tarfile.TarInfo(f"{number}.cls")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(InputError, match=r"a\.tar, sample '1' \(row 1\): cls is .*--drop cls"):
        converted(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has 2 columns named 'a', expected one"):
        converted(tmp_path / "a.parquet", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
