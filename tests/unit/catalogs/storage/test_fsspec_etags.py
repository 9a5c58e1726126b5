"""Etags of fsspec drivers: every driver calls the version of a file differently."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hub_server import Hub, hub_server

from attent_select.errors import CorpusMismatchError, StorageError
from catalogs import storage

CONVERTED = "refs/convert/parquet"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the driver of `huggingface_hub` talks to."""
    with hub_server() as server:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.endpoint})
        yield server


@pytest.mark.parametrize(
    ("repository", "root"),
    [
        ("datasets/org/name@main", "hf://datasets/org/name"),
        ("datasets/org/name@v1", "hf://datasets/org/name@v1"),
        (f"datasets/org/name@{CONVERTED}", f"hf://datasets/org/name@{CONVERTED}"),
        ("buckets/org/name", "hf://buckets/org/name"),
    ],
)
def test_a_replaced_file_of_equal_size_on_the_hub_is_noticed(
    hub: Hub, repository: str, root: str
) -> None:
    hub.put(repository, "data/a.bin", b"first")
    (listed,) = storage.list_objects(root)
    assert listed == storage.info(f"{root}/data/a.bin")
    assert listed.url == f"{root}/data/a.bin"
    assert storage.read_ranges(listed.url, [(1, 2), (4, 1)], etag=listed.etag) == [b"ir", b"t"]
    assert sum(hub.ranges) == 3
    hub.put(repository, "data/a.bin", b"other")
    with pytest.raises(CorpusMismatchError, match=r"a\.bin has changed"):
        storage.read(listed.url, etag=listed.etag)
    hub.put(repository, "data/b.bin", b"later")
    assert storage.info(f"{root}/data/b.bin") is not None


class Other(MemoryFileSystem):
    """A driver whose answers have the given facts and nothing else."""

    protocol = "other"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    facts: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("other://").strip("/")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "size": 3, "type": "file", **self.facts}


fsspec.register_implementation("other", Other, clobber=True)


def etag_of(facts: dict[str, Any]) -> str:
    Other.facts = facts
    stored = storage.info("other://a.bin")
    assert stored is not None
    return stored.etag


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"modificationTime": 1700000000123}, {"modificationTime": 1700000000124}),  # WebHDFS
        ({"sha": "ab"}, {"sha": "cd"}),  # GitHub
        ({"hex": "ab", "mode": "100644"}, {"hex": "cd", "mode": "100644"}),  # git
        ({"CRC": 0}, {"CRC": 1}),  # a zip file
        ({"mtime": 0}, {"mtime": 1}),  # SMB; archives set the time to 0
        ({"modify": "20240101120000"}, {"modify": "20240101120001"}),  # FTP
        ({"ETag": None, "Content-MD5": "ab=="}, {"ETag": None, "Content-MD5": "cd=="}),  # HTTP
    ],
)
def test_a_new_version_has_another_etag(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert etag_of(old) == etag_of(dict(old))
    assert etag_of(old) != etag_of(new)


def test_a_time_is_the_same_in_every_zone() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    times = [noon, noon.replace(tzinfo=None), noon.astimezone(timezone(timedelta(hours=9)))]
    assert len({etag_of({"mtime": time}) for time in times}) == 1


@pytest.mark.parametrize("facts", [{}, {"mtime": None}, {"etag": "", "mtime": ""}])
def test_a_driver_without_any_version_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(StorageError, match=r"other://a\.bin: .*replaced file would go unnoticed"):
        etag_of(facts)
