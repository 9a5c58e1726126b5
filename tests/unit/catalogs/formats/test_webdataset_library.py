"""WebDataset shards of other programs: the same samples as the webdataset library reads."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.writer import TarWriter

from attent_select.errors import InputError
from catalogs import storage
from catalogs.formats.webdataset import Webdataset
from catalogs.shard_format import Shard
from catalogs.shards import format_of

Members = list[tuple[str, bytes]]


def tar(path: Path, members: Members) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def shard_of(url: str) -> tuple[Shard, tuple[str, ...]]:
    inspection, stored = Webdataset().inspect(url), storage.info(url)
    assert stored is not None
    facts = (inspection.num_samples, stored.num_bytes, stored.etag)
    return Shard(0, url, "webdataset", *facts), inspection.columns


def read(url: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    shard, known = shard_of(url)
    rows = range(shard.num_samples)
    return Webdataset().read(shard, rows=rows, columns=columns or list(known)).samples


def by_library(url: str) -> list[dict[str, bytes]]:
    """The samples that the library yields, without what it adds itself."""
    samples = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))
    return [{k: v for k, v in one.items() if not k.startswith("__")} for one in samples]


def by_extension(url: str, samples: list[dict[str, bytes]]) -> list[dict[str, Any]]:
    """The same samples as we read them, each column named by its whole extension."""
    exts = sorted({ext for sample in samples for ext in sample})
    return [
        {ext: value for ext, value in sample.items() if value is not None}
        for sample in read(url, exts)
    ]


ODD: dict[str, Members] = {
    "extensions in capitals": [("000.JPG", b"a"), ("001.jpg", b"b"), ("002.Jpg", b"c")],
    "sidecars": [("000.jpg", b"a"), ("000.jpg.bin", b"s"), ("000.bin", b"j"), ("001.jpg", b"b")],
    "dots in a name": [("clip_0.95.jpg", b"a"), ("clip_1.95.jpg", b"b")],
    "dots in a folder": [("v1.0/000.jpg", b"a"), ("v1.0/001.jpg", b"b")],
    "equal names in two folders": [("a/0.jpg", b"a"), ("b/0.jpg", b"b")],
    "a leading dot and slash": [("./0.jpg", b"a"), ("./0.bin", b"b"), ("./1.jpg", b"c")],
    "one column as several types": [("0.img.png", b"a"), ("1.img.jpg", b"b"), ("2.img.png", b"c")],
    "two types of one column": [("0.img.png", b"a"), ("0.img.jpg", b"b"), ("1.img.png", b"c")],
    "members of no sample": [("README", b"x"), ("__meta__/a.bin", b"x"), ("0.bin", b"a")],
    "underscores before a name": [("__0.bin", b"a"), ("_1.bin", b"b")],
    "a key again": [("0.bin", b"a"), ("1.bin", b"b"), ("0.bin", b"c")],
    "unicode": [("ü.bin", b"a"), ("日本.bin", b"b")],
    "an empty member": [("0.bin", b""), ("1.bin", b"b")],
}


@pytest.mark.parametrize("members", ODD.values(), ids=ODD.keys())
def test_samples_are_those_of_the_library(tmp_path: Path, members: Members) -> None:
    url = tar(tmp_path / "a.tar", members)
    expected = by_library(url)
    assert by_extension(url, expected) == expected


NAMES = st.tuples(
    st.sampled_from(["", "d/", "d.1/", "__m__/"]),
    st.sampled_from(["0", "1", "a_1", "__x"]),
    st.sampled_from([".bin", ".JPG", ".jpg", ".jpg.bin", ".img.jpg", ".img.png", ".0.5.bin", ""]),
).map("".join)


@given(st.lists(NAMES, min_size=1, max_size=9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_names_is_read_like_the_library_or_refused(
    tmp_path: Path, names: list[str]
) -> None:
    url = tar(tmp_path / "a.tar", [(name, str(k).encode()) for k, name in enumerate(names)])
    try:
        shard_of(url)
    except InputError as error:
        reason = str(error)
    else:
        reason, expected = "", by_library(url)
        assert by_extension(url, expected) == expected
    assert not reason or "duplicate member" in reason or "not next to each other" in reason


def test_a_tar_of_the_library_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file, TarWriter(file) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:03d}", "cls": number, "json": {"n": [number]}})
    assert read(str(tmp_path / "a.tar")) == [{"cls": k, "json": {"n": [k]}} for k in range(3)]


def test_a_sidecar_and_its_image_are_two_columns(tmp_path: Path) -> None:
    members = [("0.jpg", b"I"), ("0.jpg.json", b'{"a": 1}'), ("0.json", b'{"b": 2}')]
    assert read(tar(tmp_path / "a.tar", members)) == [
        {"jpg": b"I", "jpg.json": {"a": 1}, "json": {"b": 2}}
    ]
    # Also where one sample has only the one, another only the other.
    members = [("0.mp4", b"I"), ("1.mp4.json", b'{"a": 1}')]
    assert shard_of(tar(tmp_path / "b.tar", members))[1] == ("mp4", "mp4.json")


def test_the_first_of_several_alternatives_is_read(tmp_path: Path) -> None:
    members = [
        ("0.png", b"p"),
        ("1.jpg", b"j"),
        ("2.webp", b"w"),
        ("2.JPEG", b"e"),
        ("3.cls", b"1"),
    ]
    url = tar(tmp_path / "a.tar", members)
    column = "jpg;jpeg;png;webp"
    assert [one[column] for one in read(url, [column])] == [b"p", b"j", b"e", None]
    with pytest.raises(InputError, match=r"no column 'gif;bmp'"):
        read(url, ["gif;bmp"])


def test_a_value_inside_of_a_json_member_is_a_column(tmp_path: Path) -> None:
    members = [
        ("0.json", b'{"label": 3, "meta": {"id": "a"}}'),
        ("1.json", b'{"label": null}'),
        ("2.json", b"[1, 2]"),
        ("3.json", b"{"),
    ]
    url = tar(tmp_path / "a.tar", members)
    assert [one["json.label"] for one in read(url, ["json.label"])] == [3, None, None, b"{"]
    both = read(url, ["json.meta.id", "json.label", "json"])
    assert [one["json.meta.id"] for one in both] == ["a", None, None, b"{"]
    assert both[1]["json"] == {"label": None}
    with pytest.raises(InputError, match=r"no column 'cls\.label'"):
        read(url, ["cls.label"])


def test_members_that_are_not_next_to_each_other_are_named(tmp_path: Path) -> None:
    members = [("0.jpg", b"a"), ("1.jpg", b"b"), ("0.cls", b"0"), ("1.cls", b"1")]
    with pytest.raises(InputError, match=r"sample '0' are not next to .*: jpg come first, cls"):
        shard_of(tar(tmp_path / "a.tar", members))


@pytest.mark.parametrize("padding", [0, 512, 100_000])
def test_several_tar_files_in_one_are_refused(tmp_path: Path, padding: int) -> None:
    first = Path(tar(tmp_path / "a.tar", [("0.bin", b"a")])).read_bytes()
    second = Path(tar(tmp_path / "b.tar", [("1.bin", b"b")])).read_bytes()
    (tmp_path / "c.tar").write_bytes(first + bytes(padding) + second)
    with pytest.raises(InputError, match=r"c\.tar has data after its end mark at byte 1024"):
        shard_of(str(tmp_path / "c.tar"))
    (tmp_path / "d.tar").write_bytes(first + bytes(padding))
    assert shard_of(str(tmp_path / "d.tar"))[0].num_samples == 1


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".tar.zst":
        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    # Two gzip streams, as `cat` and parallel compressors write them.
    return gzip.compress(data[:1000]) + gzip.compress(data[1000:])


def test_damaged_compressed_tars_keep_no_memory(tmp_path: Path) -> None:
    damaged, process = tmp_path / "a.tar.gz", psutil.Process()
    data = gzip.compress(bytes(2000))
    damaged.write_bytes(data[:15] + b"\xff" * 5 + data[20:])
    sizes = []
    for _ in range(60):
        with pytest.raises(InputError, match="cannot be decompressed"):
            Webdataset().inspect(str(damaged))
        sizes.append(process.memory_info().vms)
    # A chunk of 16 MiB each would be 800 MiB.
    assert sizes[-1] - sizes[9] < 200 << 20


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst"])
def test_a_compressed_tar_is_read_as_a_whole(tmp_path: Path, suffix: str) -> None:
    members = [(f"{k}.{ext}", bytes([k]) * 900) for k in range(5) for ext in ("png", "bin")]
    plain = tar(tmp_path / "a.tar", members)
    url = str(tmp_path / f"a{suffix}")
    Path(url).write_bytes(compress(Path(plain).read_bytes(), suffix))
    assert format_of(url) == "webdataset"
    assert read(url) == read(plain)
    shard, _ = shard_of(url)
    plan = Webdataset().plan(shard, rows=[3], columns=["png"])
    assert (plan.method, plan.num_bytes) == ("whole compressed file", shard.num_bytes)
    reading = Webdataset().read(shard, rows=[3], columns=["png"])
    assert reading.values["png"] == [bytes([3]) * 900]
    assert reading.bytes_read == shard.num_bytes > reading.bytes_selected > 0
    Path(url).write_bytes(Path(url).read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot be decompressed|not a complete tar file"):
        shard_of(url)
