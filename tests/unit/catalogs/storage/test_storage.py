"""Storage on local files and on an fsspec driver; S3 is tested in tests/integration."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from attent_select.errors import (
    AccessDeniedError,
    CorpusMismatchError,
    InputError,
    MissingError,
    StorageError,
)
from catalogs import storage
from catalogs.layout import join
from catalogs.storage.objects import translate_errors


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return f"memory://{request.node.originalname}"


def test_a_published_object_is_read_whole_and_in_ranges(folder: str) -> None:
    storage.publish(f"{folder}/deep/er/a.bin", b"0123456789")
    assert storage.read(f"{folder}/deep/er/a.bin") == b"0123456789"
    data_ranges = storage.read_ranges(f"{folder}/deep/er/a.bin", [(8, 2), (0, 1), (0, 10)])
    assert data_ranges == [b"89", b"0", b"0123456789"]


@pytest.mark.parametrize("below", ["", "deep/"])
def test_publishing_below_a_file_is_an_input_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(InputError, match=r"is a file\. Choose another folder"):
        storage.publish(f"{tmp_path}/file/{below}a.bin", b"more")
    assert (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_rename_that_fails_once_as_on_a_network_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failures, replace = [OSError(number, os.strerror(number))], os.replace

    def failing(source: Path, target: Path) -> None:
        if failures:
            raise failures.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    storage.publish(f"{tmp_path}/a.bin", b"data")
    assert failures == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"data"}


def test_publishing_again_replaces_the_object_and_its_etag(folder: str) -> None:
    storage.publish(f"{folder}/a.bin", b"old")
    old = storage.info(f"{folder}/a.bin")
    storage.publish(f"{folder}/a.bin", b"new")
    new = storage.info(f"{folder}/a.bin")
    assert old is not None
    assert new is not None
    assert old.etag != new.etag
    assert storage.read(f"{folder}/a.bin", etag=new.etag) == b"new"
    with pytest.raises(CorpusMismatchError, match=r"a\.bin has changed"):
        storage.read(f"{folder}/a.bin", etag=old.etag)
    with pytest.raises(CorpusMismatchError, match=r"a\.bin has changed"):
        storage.read_ranges(f"{folder}/a.bin", [(0, 1)], etag=old.etag)


def test_a_published_local_file_stays_where_it_was(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"x" * 3_000_000)
    storage.publish(f"{folder}/copy.bin", source)
    assert storage.read(f"{folder}/copy.bin") == source.read_bytes()


def test_a_listing_is_recursive_sorted_and_equal_to_info_of_each_object(folder: str) -> None:
    for name in ("b/2", "b/10", "a", "c/d/e"):
        storage.publish(f"{folder}/here/{name}", name.encode())
    storage.publish(f"{folder}/herein", b"not in the folder")
    objects = storage.list_objects(f"{folder}/here")
    names = [f"{folder}/here/{name}" for name in ("a", "b/10", "b/2", "c/d/e")]
    assert [one.url for one in objects] == names
    assert [one.num_bytes for one in objects] == [1, 4, 3, 5]
    assert [storage.info(name) for name in names] == objects
    assert storage.list_objects(f"{folder}/here/a") == objects[:1]
    assert storage.list_objects(f"{folder}/nowhere") == []


def test_an_absent_object_is_missing_and_can_be_deleted(folder: str) -> None:
    assert storage.info(f"{folder}/no") is None
    with pytest.raises(MissingError, match=f"{folder}/no was not found"):
        storage.read(f"{folder}/no")
    with pytest.raises(MissingError):
        storage.read_ranges(f"{folder}/no", [(0, 1)])
    with pytest.raises(MissingError), storage.local_copy(f"{folder}/no"):
        pass
    storage.delete(f"{folder}/no")
    storage.delete_folder(f"{folder}/no")


def test_a_deleted_object_is_gone(folder: str) -> None:
    for name in ("a", "b", "c/d"):
        storage.publish(f"{folder}/x/{name}", b"1")
    storage.delete(f"{folder}/x/a")
    storage.delete_all([f"{folder}/x/b"])
    assert [one.url for one in storage.list_objects(f"{folder}/x")] == [f"{folder}/x/c/d"]
    storage.delete_folder(f"{folder}/x")
    assert storage.list_objects(f"{folder}/x") == []


@pytest.mark.parametrize("extent", [(5, 6), (10, 1), (50, 1)])
def test_a_range_beyond_the_end_is_a_storage_error(folder: str, extent: tuple[int, int]) -> None:
    storage.publish(f"{folder}/a.bin", b"0123456789")
    with pytest.raises(StorageError, match=r"a\.bin: requested"):
        storage.read_ranges(f"{folder}/a.bin", [(0, 1), extent])


def test_folders_are_uploaded_and_downloaded(folder: str, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "empty").touch()
    storage.upload_folder(source, f"{folder}/checkpoint")
    storage.download_folder(f"{folder}/checkpoint", copy)
    assert (copy / "a.txt").read_text() == "a"
    assert (copy / "deep" / "empty").read_bytes() == b""
    with pytest.raises(MissingError):
        storage.download_folder(f"{folder}/nowhere", copy)


def test_a_local_copy_exists_within_its_block(folder: str) -> None:
    storage.publish(f"{folder}/a.txt", b"a")
    with storage.local_copy(f"{folder}/a.txt") as path:
        assert path.read_bytes() == b"a"
        assert path.name == "a.txt"
    assert path.exists() == storage.is_local(folder)


def test_expanded_objects_are_sorted_and_unique(folder: str) -> None:
    for name in ("a-00.tar", "a-01.tar", "a-02.tar", "b/x.tar", "b/_SUCCESS", "b/.x.crc"):
        storage.publish(f"{folder}/in/{name}", name.encode())
    objects = storage.expand(
        [f"{folder}/in/a-{{01..02}}.tar", f"{folder}/in/*.tar", f"{folder}/in/b"]
    )
    names = ["a-00.tar", "a-01.tar", "a-02.tar", "b/x.tar"]
    assert [one.url for one in objects] == [f"{folder}/in/{name}" for name in names]


def test_two_stars_are_refused(folder: str) -> None:
    for name in ("a.tar", "b/c/d.tar"):
        storage.publish(f"{folder}/in/{name}", b"1")
    with pytest.raises(InputError, match="Name the folder"):
        storage.expand([f"{folder}/in/**/*.tar"])


def test_numbered_braces_may_count_down(folder: str) -> None:
    storage.publish(f"{folder}/in/a-1.tar", b"1")
    with pytest.raises(InputError, match=r"a-2\.tar \(from"):
        storage.expand([f"{folder}/in/a-{{2..1}}.tar"])


@pytest.mark.parametrize("pattern", ["none.tar", "*.parquet", "none/", "a-{00..01}.tar"])
def test_a_pattern_without_a_match_is_an_input_error(folder: str, pattern: str) -> None:
    storage.publish(f"{folder}/in/a-00.tar", b"1")
    with pytest.raises(InputError, match=r"nothing found at .*in/"):
        storage.expand([f"{folder}/in/a-00.tar", f"{folder}/in/{pattern}"])


def test_a_glob_does_not_match_deeper_folders(tmp_path: Path) -> None:
    storage.publish(str(tmp_path / "a.tar"), b"1")
    storage.publish(str(tmp_path / "deep" / "b.tar"), b"1")
    (tmp_path / "deep" / "locked").mkdir(mode=0)
    urls = [one.url for one in storage.expand([str(tmp_path / "*.tar")])]
    assert urls == [str(tmp_path / "a.tar")]
    assert len(storage.expand([str(tmp_path / "*" / "*.tar")])) == 1


def test_linked_folders_are_listed_even_if_links_are_cyclic(tmp_path: Path) -> None:
    storage.publish(str(tmp_path / "disk" / "b.tar"), b"1")
    storage.publish(str(tmp_path / "corpus" / "a.tar"), b"1")
    (tmp_path / "corpus" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "corpus")
    (tmp_path / "corpus" / "self").symlink_to(tmp_path / "corpus")
    urls = [one.url for one in storage.expand([str(tmp_path / "corpus")])]
    assert urls == [str(tmp_path / "corpus" / name) for name in ("a.tar", "more/b.tar")]


def test_a_crash_while_publishing_leaves_the_old_file_and_no_listed_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalogs.storage.retry.RETRY_SECONDS", 0.0)
    storage.publish(str(tmp_path / "a.bin"), b"old")
    unreadable = Path("/proc/self/mem")
    with pytest.raises(StorageError, match=r"a\.bin"):
        storage.publish(str(tmp_path / "a.bin"), unreadable)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert storage.read(str(tmp_path / "a.bin")) == b"old"
    # What a killed process leaves behind.
    (tmp_path / ".a.bin.0123.attent-tmp").write_bytes(b"half")
    assert [one.url for one in storage.list_objects(str(tmp_path))] == [str(tmp_path / "a.bin")]


def test_readers_of_a_replaced_file_never_see_a_part_of_it(tmp_path: Path) -> None:
    url = str(tmp_path / "a.bin")
    versions = [bytes([version]) * 200_000 for version in range(8)]
    storage.publish(url, versions[0])
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(storage.publish, url, version) for version in versions]
        reads = [pool.submit(storage.read, url) for _ in range(40)]
    assert all(write.result() is None for write in writes)
    assert {read.result() for read in reads} <= set(versions)


def test_a_published_file_can_be_read_by_others(tmp_path: Path) -> None:
    storage.publish(str(tmp_path / "a.bin"), b"x")
    ordinary = tmp_path / "b.bin"
    ordinary.write_bytes(b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.bin", "b.bin")]
    assert modes[0] == modes[1]


def test_a_url_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.normalise("data/../run/") == f"{tmp_path}/run"
    assert storage.normalise("file:///data/a%20b") == "/data/a b"
    assert storage.normalise("~/x") == "/home/me/x"
    assert storage.normalise("s3://bucket/x/") == "s3://bucket/x"
    assert storage.normalise("file://localhost/tmp/x") == "/tmp/x"
    assert storage.normalise("memory://") == "memory://"
    with pytest.raises(InputError, match="another-host"):
        storage.normalise("file://another-host/tmp/x")
    assert storage.is_local("file:///x")
    assert not storage.is_local("memory://x")


def test_the_root_of_a_store_is_a_folder() -> None:
    storage.publish("memory://the-root.bin", b"x")
    assert "memory://the-root.bin" in [one.url for one in storage.list_objects("memory://")]
    assert storage.expand(["memory://the-root.*"]) == [storage.info("memory://the-root.bin")]
    assert join("memory://", "a") == "memory://a"


def test_a_file_url_and_its_path_are_the_same_object(tmp_path: Path) -> None:
    storage.publish(f"file://{tmp_path}/a.bin", b"x")
    assert storage.info(f"file://{tmp_path}/a.bin") == storage.info(f"{tmp_path}/a.bin")


def test_publishing_an_absent_file_names_that_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such source"):
        storage.publish(str(tmp_path / "a.bin"), tmp_path / "no such source")


def test_an_unknown_scheme_is_an_input_error_that_names_it() -> None:
    with pytest.raises(InputError, match=r"nosuch://x/y is not a URL of a known kind of storage"):
        storage.read("nosuch://x/y")


def test_an_unreadable_folder_is_an_input_error_for_patterns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nosuch://x is not a URL"):
        storage.expand(["nosuch://x/*.tar"])


def test_missing_s3_credentials_are_named_instead_of_the_machine_role() -> None:
    text = "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1ms"
    with (
        pytest.raises(AccessDeniedError, match=r"^s3://b/k: no S3 credentials found: set AWS_ACC"),
        translate_errors("s3://b/k"),
    ):
        raise OSError(text)
    with pytest.raises(StorageError, match=r"^/b/k: Generic"), translate_errors("/b/k"):
        raise OSError(text)
