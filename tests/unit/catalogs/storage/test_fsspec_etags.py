"""Etags of fsspec drivers: every driver calls the version of a file differently."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from attent_select.errors import CorpusMismatchError, StorageError
from catalogs import storage


class Hub(MemoryFileSystem):
    """Stand-in that answers like `HfFileSystem`: content ids, no time and no etag."""

    protocol = "hf"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hf://").strip("/")

    def _answer(self, detail: dict[str, Any]) -> dict[str, Any]:
        if detail["type"] == "directory":
            return {**detail, "tree_id": "1234", "last_commit": None}
        content = self.store[detail["name"]].getvalue()
        sha = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        plain = {name: detail[name] for name in ("name", "size", "type")}
        # Files of repositories and of buckets are identified by different facts.
        if "/buckets/" in detail["name"]:
            return {**plain, "xet_hash": sha, "mtime": None, "uploaded_at": None}
        return {**plain, "blob_id": sha, "lfs": None, "xet_hash": None, "last_commit": None}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._answer(super().info(path))

    def find(self, path: str, **_: Any) -> dict[str, Any]:
        entries = super().find(path, detail=True)
        return {name: self._answer(entry) for name, entry in entries.items()}


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield Hub
    Hub.store.clear()
    fsspec.register_implementation("hf", "huggingface_hub.HfFileSystem", clobber=True)


@pytest.mark.parametrize("root", ["hf://datasets/org/name", "hf://buckets/org/name"])
def test_a_replaced_file_of_equal_size_on_the_hub_is_noticed(hub: type[Hub], root: str) -> None:
    hub().pipe_file(f"{root}/data/a.bin", b"first")
    (listed,) = storage.list_objects(root)
    assert listed == storage.info(f"{root}/data/a.bin")
    assert listed.url == f"{root}/data/a.bin"
    assert storage.read_ranges(listed.url, [(1, 2)], etag=listed.etag) == [b"ir"]
    hub().pipe_file(f"{root}/data/a.bin", b"other")
    with pytest.raises(CorpusMismatchError, match=r"a\.bin has changed"):
        storage.read(listed.url, etag=listed.etag)


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
