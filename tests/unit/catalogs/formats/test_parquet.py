"""Parquet shards: layouts of other programs; see also the conformance suite."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attent_select.errors import InputError
from catalogs import storage
from catalogs.formats.parquet import Parquet
from catalogs.shard_format import Sample, Shard
from catalogs.tables import parquet_file

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def shard_of(path: Path) -> Shard:
    stored = storage.info(str(path))
    assert stored is not None
    count = Parquet().inspect(stored.url).num_samples
    return Shard(0, stored.url, "parquet", count, stored.num_bytes, stored.etag)


def read(path: Path, rows: list[int], columns: list[str]) -> list[dict[str, Any]]:
    return Parquet().read(shard_of(path), rows=rows, columns=columns).samples


def test_nested_columns_are_read_as_plain_values(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": b"x", "path": None}, "a.b": 1, "tags": ["t"], "box": [[1.5]]},
        {"image": {"bytes": b"y", "path": "p"}, "a.b": 2, "tags": [], "box": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", [0, 1], ["image", "a.b", "tags", "box"]) == rows
    assert read(tmp_path / "a.parquet", [1], ["box", "image"]) == [
        {"box": None, "image": {"bytes": b"y", "path": "p"}}
    ]


def test_other_types_are_read_as_plain_values(tmp_path: Path) -> None:
    table = pa.table(
        {
            "word": pa.array(["a", "b", "a"]).dictionary_encode(),
            "large": pa.array([b"1", b"2", b"3"], pa.large_binary()),
            "small": pa.array([1, 2, 3], pa.int8()),
            "pairs": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int32())),
            "fixed": pa.array([b"ab", b"cd", b"ef"], pa.binary(2)),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", [0, 2], table.column_names) == [
        {"word": "a", "large": b"1", "small": 1, "pairs": [("k", 1)], "fixed": b"ab"},
        {"word": "a", "large": b"3", "small": 3, "pairs": None, "fixed": b"ef"},
    ]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "lz4"])
def test_only_the_row_groups_of_the_rows_are_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": range(100_000), "y": [f"{n:040d}" for n in range(100_000)]})
    pq.write_table(table, path, row_group_size=1000, compression=compression)
    shard = shard_of(path)
    rows = [5, 42_000, 42_001, 70_000]
    reading = Parquet().read(shard, rows=rows, columns=["x"])
    assert [sample["x"] for sample in reading.samples] == rows
    assert reading.num_requests == 3
    assert reading.bytes_read < shard.num_bytes / 20
    assert 0 < reading.bytes_selected < reading.bytes_read


def test_a_footer_larger_than_the_first_request_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {f"column {number}": range(300) for number in range(200)}
    pq.write_table(pa.table(columns), path, row_group_size=10)
    data = path.read_bytes()
    assert int.from_bytes(data[-8:-4], "little") > 1 << 16
    assert read(path, [299], ["column 7"]) == [{"column 7": 299}]


@given(
    group_rows=st.integers(20, 400),
    value_bytes=st.integers(1, 2500),
    columns=st.sampled_from([["x"], ["y"], ["x", "y"]]),
    step=st.integers(1, 50),
    is_planned=st.booleans(),
)
@in_one_folder
def test_no_byte_of_a_small_shard_is_read_twice(
    tmp_path: Path,
    group_rows: int,
    value_bytes: int,
    columns: list[str],
    step: int,
    *,
    is_planned: bool,
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": [os.urandom(value_bytes) for _ in range(400)], "y": range(400)})
    pq.write_table(table, path, row_group_size=group_rows, use_dictionary=False)
    shard, rows = shard_of(path), [*range(0, 400, step)]
    meter = storage.ReadMeter()
    with storage.use_read_policy(storage.ReadPolicy(meter=meter)):
        if is_planned:
            Parquet().plan(shard, rows=rows, columns=columns)
        reading = Parquet().read(shard, rows=rows, columns=columns)
    assert reading.samples == table.select(columns).take(rows).to_pylist()
    assert reading.bytes_read <= meter.num_bytes <= shard.num_bytes
    if step == 1 and columns == ["x", "y"]:
        assert meter.num_requests <= 2


@pytest.mark.parametrize("latency_seconds", [0.0, 16e-6, 0.025])
def test_a_whole_shard_costs_its_bytes_and_one_request_beside_its_footers(
    tmp_path: Path, latency_seconds: float
) -> None:
    samples: list[Sample] = [{"image": os.urandom(500), "label": n % 10} for n in range(2000)]
    Parquet().write(tmp_path / "a.parquet", samples)
    shard, meter = shard_of(tmp_path / "a.parquet"), storage.ReadMeter()
    cost = storage.ReadCost(latency_seconds, bytes_per_second=40e6)
    columns = ["image", "label"]
    with storage.use_read_policy(storage.ReadPolicy(cost=cost, meter=meter)):
        Parquet().plan(shard, rows=range(2000), columns=columns)
        assert meter.num_requests == 1
        assert meter.num_bytes <= parquet_file.TAIL_BYTES
        reading = Parquet().read(shard, rows=range(2000), columns=columns)
    assert reading.samples == samples
    assert meter.num_requests == 2
    assert meter.num_bytes <= 1.02 * reading.bytes_selected


def test_empty_row_groups_do_not_shift_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    schema = pa.schema({"x": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for values in ([0, 1], [], [2], []):
            writer.write_table(pa.table({"x": values}, schema=schema))
    assert read(path, [1, 2], ["x"]) == [{"x": 1}, {"x": 2}]


def test_a_damaged_page_is_an_input_error_that_names_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [f"{n}" for n in range(20_000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[100:2000] = bytes(1900)
    path.write_bytes(data)
    shard = shard_of(path)
    with pytest.raises(InputError, match=r"a\.parquet is damaged"):
        Parquet().read(shard, rows=[0], columns=["x"])


def test_a_footer_with_a_wrong_length_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    path.write_bytes(path.read_bytes()[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet is damaged: its footer claims"):
        Parquet().inspect(str(path))


def test_a_file_without_its_middle_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [f"{n:09d}" for n in range(20_000)]}), path, compression="none")
    data = path.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    path.write_bytes(data[:1000] + data[-footer:])
    with pytest.raises(InputError, match="bytes beyond the end"):
        Parquet().inspect(str(path))


def test_the_decoded_size_of_a_small_file_is_known_from_its_footer(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": [bytes([n]) * (1 << 18) for n in range(64)], "y": range(64)})
    pq.write_table(table, path, compression="zstd", row_group_size=16, use_dictionary=False)
    shard = shard_of(path)
    assert shard.num_bytes < 100_000

    def decoded(rows: list[int], columns: list[str]) -> int:
        return Parquet().plan(shard, rows=rows, columns=columns).decoded_bytes

    group = 16 << 18
    # A row group is always decoded as a whole.
    assert decoded([0], ["x"]) == pytest.approx(group * (1 + 1 / 16), rel=0.01)
    assert decoded([*range(32)], ["x"]) == pytest.approx(group * 3, rel=0.01)
    assert decoded([0], ["y"]) < 1000


def test_a_row_group_that_needs_too_much_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": [bytes(1 << 20)] * 10, "y": range(10)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(parquet_file, "_MAX_GROUP_BYTES", 5 << 20)
    assert read(path, [3], ["y"]) == [{"y": 3}]
    with pytest.raises(InputError, match=r"a\.parquet: row group 0 has 10\d+ bytes"):
        read(path, [3], ["x"])


def test_the_size_of_a_footer_in_memory_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {f"column {number}": [f"{row}" for row in range(400)] for number in range(10)}
    pq.write_table(pa.table(columns), path, row_group_size=2)
    # In a subprocess: the memory of a footer belongs to pyarrow and is only visible from outside.
    program = f"""
import gc
from catalogs.tables import parquet_file
from catalogs import storage

def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")}

size = storage.info({str(path)!r}).num_bytes
kept = [parquet_file.load_footer({str(path)!r}, num_bytes=size)]
before = resident()
kept += [parquet_file.load_footer({str(path)!r}, num_bytes=size) for _ in range(20)]
print((resident() - before) / 20 / kept[0].num_bytes)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert 0.6 < float(process.stdout) < 1.5


def test_duplicate_column_names_are_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([[1], [2], [3]], names=["x", "y", "x"]), path)
    with pytest.raises(InputError, match=r"a\.parquet has two columns named 'x'"):
        Parquet().inspect(str(path))


def test_large_samples_make_small_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    Parquet().write(path, ({"image": bytes([n]) * (3 << 20)} for n in range(7)))
    groups = pq.read_metadata(path)
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [3, 3, 1]


@pytest.mark.parametrize(
    "late",
    [{"x": "text"}, {"x": 2.5}, {"x": 1 << 64}, {"z": [2.5]}, {"s": {"a": "t"}}, {"x": True}],
    ids=["type", "fraction", "size", "list", "struct", "bool"],
)
def test_a_change_of_type_between_samples_is_an_input_error(
    tmp_path: Path, late: dict[str, Any]
) -> None:
    samples = [{"x": number, "z": [1], "s": {"a": 1}} for number in range(2000)]
    with pytest.raises(InputError, match=r"cannot write .*a\.parquet"):
        Parquet().write(tmp_path / "a.parquet", [*samples, late])


def test_integers_may_mix_with_floats_and_nulls_with_anything(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [{"x": 0.5, "z": [1], "s": {"a": 1, "b": "t"}}] * 1024
    late = [{"x": 1, "z": [], "s": {"b": None}}, {"x": None, "z": None, "s": None}]
    Parquet().write(tmp_path / "a.parquet", [*samples, *late])
    samples_read = read(tmp_path / "a.parquet", [1024, 1025], ["x", "z", "s"])
    assert samples_read == [{"x": 1.0, "z": [], "s": {"a": None, "b": None}}, late[1]]


@pytest.mark.parametrize(
    "values",
    [
        [0.5, True],
        [[1, 2], [True]],
        [[0.5, False]],
        [{"a": [0.5]}, {"a": [True]}],
        [{}],
        [[{}]],
    ],
)
def test_values_that_parquet_would_change_are_an_input_error(
    tmp_path: Path, values: list[Any]
) -> None:
    with pytest.raises(InputError, match=r"cannot write .*a\.parquet"):
        Parquet().write(tmp_path / "a.parquet", [{"x": value} for value in values])


def test_samples_without_columns_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet: 1024 samples without any column"):
        Parquet().write(tmp_path / "a.parquet", [{}] * 1024 + [{"x": 1}])


def test_an_error_of_the_sample_iterator_is_raised_unchanged(tmp_path: Path) -> None:
    def samples() -> Iterator[Sample]:
        yield {"x": 1}
        raise TypeError("of the source")

    with pytest.raises(TypeError, match="of the source"):
        Parquet().write(tmp_path / "a.parquet", samples())


def test_a_column_may_be_null_empty_or_absent_in_the_first_samples(tmp_path: Path) -> None:
    early: Sample = {"a": None, "b": [], "c": {"d": None}, "e": [{"f": None}], "n": None}
    first: Sample = early | {"c": {"d": 0.5}}
    late: Sample = {"a": "t", "b": [1], "c": {"d": 1.5, "g": 2}, "e": [{"f": b"x"}], "n": None}
    last: Sample = late | {"h": True}
    Parquet().write(
        tmp_path / "a.parquet", [early] * 2000 + [first] * 2000 + [late] * 2000 + [last]
    )
    columns = ["a", "b", "c", "e", "n", "h"]
    samples_read = read(tmp_path / "a.parquet", [0, 2000, 4000, 6000], columns)
    assert samples_read == [
        early | {"c": {"d": None, "g": None}, "h": None},
        first | {"c": {"d": 0.5, "g": None}, "h": None},
        late | {"h": None},
        last,
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_value_without_a_python_type_stays_bytes(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"\xff", b""])
    texts = pa.Array.from_buffers(pa.string(), 3, broken.buffers())
    times = pa.array([0, 1 << 62, None], pa.timestamp("us"))
    columns = {"t": texts, "w": texts.dictionary_encode(), "when": times, "n": [1, 2, 3]}
    columns["l"] = pa.ListArray.from_arrays([0, 1, 2, 3], texts)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    epoch = datetime(1970, 1, 1)
    assert read(tmp_path / "a.parquet", [0, 1, 2], list(columns)) == [
        {"t": "good", "w": "good", "when": epoch, "n": 1, "l": ["good"]},
        {"t": b"\xff", "w": b"\xff", "when": b"", "n": 2, "l": b""},
        {"t": "", "w": "", "when": None, "n": 3, "l": [""]},
    ]


def test_view_types_are_read_as_plain_values(tmp_path: Path) -> None:
    columns = {
        "s": pa.array(["a", None, "c" * 40], pa.string_view()),
        "b": pa.array([b"a", None, b"c"], pa.binary_view()),
        "l": pa.array([["a"], [], None], pa.list_(pa.string_view())),
        "k": pa.array([{"s": "a"}, None, {"s": None}], pa.struct([("s", pa.string_view())])),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", [0, 2], list(columns)) == [
        {"s": "a", "b": b"a", "l": ["a"], "k": {"s": "a"}},
        {"s": "c" * 40, "b": b"c", "l": None, "k": {"s": None}},
    ]


def test_a_column_that_some_samples_lack_is_null(tmp_path: Path) -> None:
    Parquet().write(tmp_path / "a.parquet", [{"x": 1, "y": "a"}, {"x": 2}])
    assert read(tmp_path / "a.parquet", [0, 1], ["y"]) == [{"y": "a"}, {"y": None}]


def test_only_what_was_fetched_can_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [1, 2], "y": [3, 4]}), path)
    stored = storage.info(str(path))
    assert stored is not None
    footer = parquet_file.load_footer(stored.url, num_bytes=stored.num_bytes)
    fetched = parquet_file.fetch(stored.url, footer=footer, groups=[0], columns=["x"], etag=None)
    (table,) = parquet_file.decode(stored.url, fetched, footer=footer, groups=[0], columns=["x"])
    assert table.to_pydict() == {"x": [1, 2]}
