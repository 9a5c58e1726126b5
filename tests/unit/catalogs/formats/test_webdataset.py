"""WebDataset shards: names, types, tar files of other programs; see also the conformance suite."""

import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attent_select.errors import InputError
from catalogs import storage
from catalogs.formats.webdataset import Webdataset
from catalogs.shard_format import Inspection, Shard
from catalogs.tars.members import Members

PNG = b"\x89PNG\r\n\x1a\n..."


def tar(path: Path, members: list[tuple[str, bytes]], **options: Any) -> str:
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def read(url: str, columns: list[str]) -> list[dict[str, Any]]:
    inspection = Webdataset().inspect(url)
    rows = range(inspection.num_samples)
    return Webdataset().read(as_shard(url, inspection), rows=rows, columns=columns).samples


def as_shard(url: str, inspection: Inspection) -> Shard:
    stored = storage.info(url)
    assert stored is not None
    return Shard(0, url, "webdataset", inspection.num_samples, stored.num_bytes, stored.etag)


def test_the_column_is_the_extension_without_its_type(tmp_path: Path) -> None:
    url = tar(
        tmp_path / "a.tar",
        [("d.1/0.image.png", PNG), ("d.1/0.cls", b"7"), ("d.1/0.seg.mask.png", b"m")],
    )
    inspection = Webdataset().inspect(url)
    assert inspection.columns == ("image", "cls", "seg.mask")
    assert inspection.members is not None
    assert inspection.members["key"].to_pylist() == ["d.1/0"] * 3
    assert read(url, ["image", "cls", "seg.mask"]) == [{"image": PNG, "cls": 7, "seg.mask": b"m"}]


def test_members_are_decoded_by_their_type_and_nothing_is_unpickled(tmp_path: Path) -> None:
    members = [
        ("0.a.cls", b"-3"),
        ("0.b.index", b"12\n"),
        ("0.c.txt", "é".encode()),
        ("0.d.json", b'{"x": [1, null]}'),
        ("0.e.TXT", b"upper"),
        ("0.f.pkl", b"\x80\x04K\x01."),
        ("0.g.pyd", b"\x80\x04K\x01."),
        ("0.h.jpg", b"\xff\xd8\xff"),
    ]
    url = tar(tmp_path / "a.tar", members)
    assert list(read(url, list("abcdefgh"))[0].values()) == [
        -3,
        12,
        "é",
        {"x": [1, None]},
        "upper",
        b"\x80\x04K\x01.",
        b"\x80\x04K\x01.",
        b"\xff\xd8\xff",
    ]


def test_a_member_that_cannot_be_decoded_stays_bytes(tmp_path: Path) -> None:
    members = [("0.a.cls", b"seven"), ("0.b.txt", b"\xff"), ("0.c.json", b"{"), ("0.d.cls", b"")]
    url = tar(tmp_path / "a.tar", members)
    assert read(url, list("abcd")) == [{"a": b"seven", "b": b"\xff", "c": b"{", "d": b""}]


def test_too_deeply_nested_json_stays_bytes(tmp_path: Path) -> None:
    deep = b"[" * 200_000
    assert read(tar(tmp_path / "a.tar", [("0.json", deep)]), ["json"]) == [{"json": deep}]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE])
def test_a_link_is_an_input_error_that_names_it(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("0.png")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
        link = tarfile.TarInfo("1.png")
        link.type, link.linkname = kind, "0.png"
        archive.addfile(link)
    with pytest.raises(InputError, match=r"a\.tar: 1\.png is a link"):
        Webdataset().inspect(str(path))


def test_a_header_with_an_impossible_size_is_an_input_error(tmp_path: Path) -> None:
    path = Path(tar(tmp_path / "a.tar", [("0.txt", b"a")]))
    data = bytearray(path.read_bytes())
    # An extended header of 2^87 bytes, with the checksum that goes with it.
    data[124:136] = b"\x80" + b"\x7f" * 11
    data[148:157] = b" " * 8 + tarfile.XHDTYPE
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar is not a complete tar file"):
        Webdataset().inspect(str(path))


@given(st.text(max_size=8))
@example("a/b")
@example("")
@example("a\0")
@example("a.")
@example("\ud800")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_column_name_is_refused_or_preserved(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.tar"
    try:
        Webdataset().write(path, [{column: 1, "z": 2}] * 2)
    except InputError:
        assert not column.isalnum() or column != column.lower()
    else:
        assert read(str(path), [column, "z"]) == [{column: 1, "z": 2}] * 2


def test_the_size_of_a_member_index_in_memory_is_known(tmp_path: Path) -> None:
    members = [(f"{n:06d}.{ext}", b"x") for n in range(5000) for ext in ("a.png", "b.cls")]
    table = Webdataset().inspect(tar(tmp_path / "a.tar", members)).members
    assert table is not None
    tracemalloc.start()
    index = Members.of(table)
    taken = tracemalloc.get_traced_memory()[0] + index.keys.nbytes  # Arrow's are not traced
    tracemalloc.stop()
    assert taken == pytest.approx(index.num_bytes, rel=0.1)


def test_a_missing_member_is_none(tmp_path: Path) -> None:
    url = tar(tmp_path / "a.tar", [("0.png", PNG), ("1.png", PNG), ("1.txt", b"one")])
    assert read(url, ["png", "txt"]) == [{"png": PNG, "txt": None}, {"png": PNG, "txt": "one"}]


def test_members_that_belong_to_no_sample_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("data")
        folder.type = tarfile.DIRTYPE
        link = tarfile.TarInfo("data/latest")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        for member in (folder, link):
            archive.addfile(member)
        for name in ("README", "data/.hidden", "__meta__/info.json", "data/0.txt", "data/1.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    assert read(str(path), ["txt"]) == [{"txt": "x"}, {"txt": "x"}]


def test_a_key_that_occurs_again_later_is_another_sample(tmp_path: Path) -> None:
    url = tar(tmp_path / "a.tar", [("0.txt", b"a"), ("1.txt", b"b"), ("0.txt", b"c")])
    assert [sample["txt"] for sample in read(url, ["txt"])] == ["a", "b", "c"]


def test_a_duplicate_member_in_one_sample_is_an_input_error(tmp_path: Path) -> None:
    for names in (("0.image.png", "0.image.png"), ("0.jpg", "0.JPG"), ("a/0.x.Y", "a/0.X.y")):
        url = tar(tmp_path / "a.tar", [(names[0], b"1"), (names[1], b"2")])
        with pytest.raises(InputError, match=r"a\.tar: sample '(a/)?0' has a duplicate member"):
            Webdataset().inspect(url)


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read(tmp_path: Path, style: int) -> None:
    key = "ü" * 90 + "/" + "k" * 120
    url = tar(tmp_path / "a.tar", [(f"{key}.txt", b"a"), ("1.txt", b"b")], format=style)
    assert [sample["txt"] for sample in read(url, ["txt"])] == ["a", "b"]


def test_a_damaged_header_between_two_samples_is_an_input_error(tmp_path: Path) -> None:
    path = Path(tar(tmp_path / "a.tar", [("0.txt", b"a"), ("1.txt", b"b")]))
    data = bytearray(path.read_bytes())
    data[1024 + 148 : 1024 + 156] = b"99999999"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar is not a complete tar file: .*byte 1024"):
        Webdataset().inspect(str(path))


def test_inspection_skips_the_data_of_large_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(20 << 20)
    url = tar(tmp_path / "a.tar", [(f"{key}.bin", large) for key in range(3)])
    read_bytes: list[int] = []
    original = storage.read_ranges

    def counted(url: str, ranges: Any, *, etag: str | None = None) -> list[bytes]:
        read_bytes.extend(size for _, size in ranges)
        return original(url, ranges, etag=etag)

    monkeypatch.setattr(storage, "read_ranges", counted)
    assert Webdataset().inspect(url).num_samples == 3
    assert sum(read_bytes) < 40 << 20


def test_the_webdataset_library_reads_what_we_write(tmp_path: Path) -> None:
    import webdataset

    path = tmp_path / "a.tar"
    samples = [{"image": PNG, "label": number, "text": f"t{number}"} for number in range(3)]
    Webdataset().write(path, samples)
    dataset = webdataset.WebDataset(str(path), shardshuffle=False).decode()
    got = [(one["image.png"], one["label.cls"], one["text.txt"]) for one in dataset.map(undecoded)]
    assert got == [(PNG, number, f"t{number}") for number in range(3)]


def undecoded(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def test_images_get_the_extension_of_their_format(tmp_path: Path) -> None:
    pictures = {
        "a": PNG,
        "b": b"\xff\xd8\xff\xe0",
        "c": b"RIFF\0\0\0\0WEBPVP8 ",
        "d": b"GIF89a",
        "e": b"anything",
        "f": b"",
    }
    Webdataset().write(tmp_path / "a.tar", [pictures])
    with tarfile.open(tmp_path / "a.tar") as archive:
        kinds = [name.rpartition(".")[2] for name in archive.getnames()]
    assert kinds == ["png", "jpg", "webp", "gif", "bin", "bin"]


def test_a_value_that_a_tar_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tar: 'when' of 000001"):
        Webdataset().write(tmp_path / "a.tar", [{"when": 1}, {"when": {1, 2}}])
    with pytest.raises(InputError, match="sample 0 has no columns"):
        Webdataset().write(tmp_path / "a.tar", [{}])


def test_the_extent_of_a_sample_counts_headers_and_padding(tmp_path: Path) -> None:
    url = tar(tmp_path / "a.tar", [("0.png", b"x" * 600), ("0.cls", b"1"), ("1.png", b"y")])
    inspection = Webdataset().inspect(url)
    reading = Webdataset().read(as_shard(url, inspection), rows=[0], columns=["png", "cls"])
    assert reading.bytes_selected == (512 + 1024) + (512 + 512)
    assert reading.num_requests == 1
    assert reading.bytes_read == 1024 + 512 + 1


def _header(kind: bytes, size: int, name: str = "a.cls") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X"])
def test_an_extended_header_of_gigabytes_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(_header(kind, 8 << 30) + bytes(2048))
    with pytest.raises(InputError, match=r"a\.tar .*header of 8589934592 bytes exceeds"):
        Webdataset().inspect(str(path))


@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_thousands_of_extended_headers_in_a_row_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    record = b"9 path=a\n".ljust(512, b"\0")
    path.write_bytes((_header(kind, 9) + record) * 3000 + _header(b"0", 0) + bytes(1024))
    with pytest.raises(InputError, match=r"a\.tar is damaged: .*extended headers"):
        Webdataset().inspect(str(path))
