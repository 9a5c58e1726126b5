"""Lance shards: seals, damaged and foreign files, limits, types, and estimates of what is read."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from attent_select.errors import InputError, MissingExtraError
from catalogs import storage, stored_rows
from catalogs.formats import lance
from catalogs.formats.lance import Lance
from catalogs.lance_files import seal, writer
from catalogs.shard_format import Shard
from catalogs.shards import format_of, inspect_shard
from catalogs.tables.decoded_size import LIMIT_VARIABLE
from catalogs.testing import ingest

lance_file = pytest.importorskip("lance.file", reason="pylance is not installed")

SAMPLES = [
    {"image": random.Random(row).randbytes(400), "label": row, "text": f"number {row}"}
    for row in range(300)
]


def write_foreign(path: Path, table: pa.Table, *, version: str = "2.2") -> None:
    """A file of another program: without a seal."""
    with lance_file.LanceFileWriter(str(path), table.schema, version=version) as file:
        file.write_batch(table)


def shard_of(path: Path) -> Shard:
    stored = storage.info(str(path))
    assert stored is not None
    num_samples = Lance().inspect(str(path)).num_samples
    return Shard(0, stored.url, "lance", num_samples, stored.num_bytes, stored.etag)


def with_flipped_bit(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        inspect_shard(str(path), "lance")
    return str(caught.value)


def test_every_flipped_bit_is_refused_by_the_name_of_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "shard.lance"
    Lance().write(path, SAMPLES)
    data, chosen = path.read_bytes(), random.Random(0)
    start = seal.read_metadata(str(path), num_bytes=len(data), etag=None).start
    note = data.index(seal.NOTE.encode())
    for number in range(60):
        # Every second one in the metadata, for which pylance often ends the process.
        position = chosen.randrange(start if number % 2 else 0, len(data))
        if note <= position < note + len(seal.NOTE):
            continue  # without the name of the seal the file is one of another program
        path.write_bytes(with_flipped_bit(data, position, number % 8))
        message = refusal(path)
        assert message.startswith(str(path)), position
        assert "\n" not in message


def test_a_file_of_another_program_is_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(SAMPLES)
    for version in ("2.0", "2.1", "2.2"):
        path = tmp_path / f"{version}.lance"
        write_foreign(path, table, version=version)
        reading = Lance().read(shard_of(path), rows=[0, 7, 299], columns=["text", "label"])
        assert reading.values == table.select(["text", "label"]).take([0, 7, 299]).to_pydict()


def test_a_damaged_file_of_another_program_is_refused_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "foreign.lance"
    write_foreign(path, pa.Table.from_pylist(SAMPLES))
    data = bytearray(path.read_bytes())
    start = seal.read_metadata(str(path), num_bytes=len(data), etag=None).start
    # The encodings of the pages: pylance panics, in a thread that ends the process.
    for position in range(start + 200, len(data) - 300):
        data[position] ^= 0xFF
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(str(path))
    assert "\n" not in message


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "shard.lance"
    for contents, problem in [
        (b"", "truncated"),
        (b"LANC", "truncated"),
        (b"\0" * 36 + b"LANC", "damaged"),
        (b"\xff" * 200 + b"LANC", "outside of the file"),
        (b"PAR1" + b"\0" * 100 + b"PAR1", "a Parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ]:
        path.write_bytes(contents)
        assert problem in refusal(path)


def test_a_file_inside_of_a_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.lance" / "data" / "0.lance"
    path.parent.mkdir(parents=True)
    write_foreign(path, pa.table({"a": [1]}))
    assert "ingest_rows" in refusal(path)


def test_old_files_with_lists_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.lance"
    write_foreign(path, pa.table({"tags": [[1], [2, 3]]}), version="2.0")
    assert "--convert lance" in refusal(path)


def test_a_small_file_does_not_decode_to_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, str(4 << 20))
    path = tmp_path / "bomb.lance"
    for value in ([b"x" * 100_000] * 1000, [b"a" * 90_000, b"b" * 100_000] * 500):
        table = pa.table({"a": pa.array(value, pa.binary())})
        writer.write_tables(path, [table], schema=table.schema)
        shard = shard_of(path)
        assert shard.num_bytes < 300_000
        for rows in (range(1000), range(0, 1000, 3), range(500)):
            with pytest.raises(InputError, match="decode to more than 4194304 bytes"):
                Lance().read(shard, rows=rows, columns=["a"])
        reading = Lance().read(shard, rows=[5], columns=["a"])
        assert reading.values["a"] == [value[5]]


def test_types_and_notes_of_a_table_are_kept(tmp_path: Path) -> None:
    json = pa.ExtensionArray.from_storage(
        pa.json_(pa.string()), pa.array(['{"a": 1}', None, "[1, 2]"])
    )
    columns = {
        "json": json,
        "half": pa.array([1.5, None, 2], pa.float16()),
        "day": pa.array([1, None, 3], pa.date32()),
        "tags": pa.array([[1, 2], [], None], pa.list_(pa.int32())),
        "chat": pa.array([[{"role": "user", "text": "hi"}], [], None]),
        "label": pa.array(["a", "b", "a"]).dictionary_encode(),
        "facts": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    }
    schema = pa.schema(
        [(name, column.type) for name, column in columns.items()],
        metadata={"huggingface": '{"info": {}}'},
    )
    table = pa.table(list(columns.values()), schema=schema)
    path = tmp_path / "typed.lance"
    writer.write_tables(path, [table], schema=schema)
    shard = shard_of(path)
    assert stored_rows.schema_of(shard).equals(schema, check_metadata=True)
    found = lance.read_table(shard, rows=[0, 2], columns=schema.names)
    assert found.to_pylist() == table.take([0, 2]).to_pylist()
    values = Lance().read(shard, rows=range(3), columns=["json"]).values
    assert values == {"json": ['{"a": 1}', None, "[1, 2]"]}


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lance", None)
    monkeypatch.delitem(sys.modules, "lance.file")
    assert format_of("a/b.lance") == "lance"
    with pytest.raises(MissingExtraError, match=r'pip install "attent-select\[lance\]"'):
        Lance().write(tmp_path / "shard.lance", SAMPLES)


@pytest.mark.parametrize("sample_bytes", [60, 320, 3000, 20_000])
@pytest.mark.parametrize("share", [0.003, 0.05, 0.4])
def test_estimated_reads_are_those_that_pylance_counts(
    tmp_path: Path, sample_bytes: int, share: float
) -> None:
    # Process-wide counters of pylance.
    from lance import bytes_read_counter, iops_counter

    chosen, num_rows = random.Random(0), min(20_000_000 // sample_bytes, 20_000)
    sizes = [
        chosen.randrange(sample_bytes * 2 // 3, sample_bytes * 4 // 3) for _ in range(num_rows)
    ]
    columns = {"image": [*map(chosen.randbytes, sizes)], "label": [*range(num_rows)]}
    table = pa.table(columns)
    writer.write_tables(tmp_path / "shard.lance", [table], schema=table.schema)
    shard = shard_of(tmp_path / "shard.lance")
    rows = sorted(chosen.sample(range(num_rows), int(share * num_rows)))
    Lance().read(shard, rows=rows[:1], columns=["image", "label"])
    before = bytes_read_counter(), iops_counter()
    reading = Lance().read(shard, rows=rows, columns=["image", "label"])
    num_bytes, num_requests = bytes_read_counter() - before[0], iops_counter() - before[1]
    assert reading.values["image"] == [columns["image"][row] for row in rows]
    assert reading.bytes_read == pytest.approx(num_bytes, rel=0.25)
    if reading.num_requests > 1:  # else the whole file, which pylance reads page by page
        assert reading.num_requests == pytest.approx(num_requests, rel=0.2, abs=4)


def test_scattered_large_samples_cost_their_bytes(tmp_path: Path) -> None:
    noise = random.Random(0)
    samples = [{"image": noise.randbytes(20_000)} for _ in range(3000)]
    shard = ingest(Lance(), tmp_path / "shard.lance", samples)
    shard = replace(shard, format="lance")
    rows = sorted(noise.sample(range(3000), 30))
    reading = Lance().read(shard, rows=rows, columns=["image"])
    assert reading.bytes_read <= 1.1 * 30 * 20_000
    assert reading.bytes_selected == pytest.approx(30 * 20_000, rel=0.01)
    assert [len(value) for value in reading.values["image"]] == [20_000] * 30
