"""Streaming from an S3 server that is busy, breaks off, stalls, or has other objects by now."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from digits import samples, stream_of, write_corpus, write_index
from faults import Faults, faulty
from servers import moto_s3

from attent_select.errors import CorpusMismatchError, MissingError, StorageError
from catalogs import Corpus, IndexFile, storage
from catalogs.shards import inspect_shard
from catalogs.storage import retry


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[Faults, dict[str, str]]]:
    with moto_s3() as server, faulty(server) as (shown, faults):
        yield faults, shown.environment


@pytest.fixture
def busy(proxied: tuple[Faults, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Faults:
    faults, environment = proxied
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "_FIRST_SECONDS", 0.01)
    faults.planned.clear()
    return faults


@pytest.fixture(params=["parquet", "webdataset", "lance"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path / "corpus", samples(90), kind=request.param)


@pytest.fixture
def remote(local: Corpus, busy: Faults, request: pytest.FixtureRequest) -> Corpus:
    """The same shards in a bucket."""
    found = []
    for shard in local.shards:
        url = f"s3://bucket/{request.node.name}/{Path(shard.uri).name}"
        storage.publish(url, Path(shard.uri))
        stored = storage.info(url)
        assert stored is not None
        found.append((stored, shard.format, inspect_shard(url, shard.format)))
    return Corpus.from_inspections(found)


@pytest.fixture
def index(tmp_path: Path, remote: Corpus) -> IndexFile:
    return write_index(tmp_path / "index.parquet", remote, every=2)


def test_what_passes_changes_no_batch(
    tmp_path: Path, local: Corpus, remote: Corpus, index: IndexFile, busy: Faults
) -> None:
    same_rows = write_index(tmp_path / "local.parquet", local, every=2)
    expected = list(stream_of(same_rows, local))
    busy.planned = [503, "drop", "cut", 500, "drop", 429]
    found = list(stream_of(index, remote))
    assert busy.planned == []
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_server_that_stays_busy_is_an_error_that_names_rank_and_shard(
    remote: Corpus, index: IndexFile, busy: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.2)
    stream = stream_of(index, remote, rank=1, world_size=2)
    busy.planned = [503] * 100_000
    with pytest.raises(StorageError, match=r"^rank 1, shard \d: s3://bucket/.*503"):
        list(stream)


def test_a_server_that_stalls_holds_nobody_longer_than_allowed(
    remote: Corpus, index: IndexFile, busy: Faults
) -> None:
    stream = stream_of(index, remote, timeout_seconds=1.0)
    busy.planned = ["stall"] * 100
    busy.release.clear()
    try:
        with pytest.raises(StorageError, match=r"rank 0 .* reading shard \d \(s3://bucket/.*\)"):
            list(stream)
    finally:
        busy.planned.clear()
        busy.release.set()


STALLED = """
import sys
from catalogs import storage
from catalogs.concurrency import ordered_map
read = lambda url: storage.read_ranges(url, [(0, 10), (20, 10)])
list(ordered_map(
    read, sys.argv[1:], num_threads=1, budget=1, cost=lambda _: 1, timeout_seconds=1.0))
"""


def test_a_process_ends_though_its_requests_hang(remote: Corpus, busy: Faults) -> None:
    busy.planned = ["stall"] * 100
    busy.release.clear()
    try:
        command = [sys.executable, "-c", STALLED, remote.shards[0].uri]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert "TimeoutError" in done.stderr
    finally:
        busy.planned.clear()
        busy.release.set()


def test_an_object_that_was_replaced_or_removed_is_named(
    remote: Corpus, index: IndexFile, busy: Faults
) -> None:
    url = remote.shards[1].uri
    data = storage.read(url)
    storage.publish(url, data + b"x")
    with pytest.raises(CorpusMismatchError, match=r"^rank 0, shard 1: .*has changed"):
        list(stream_of(index, remote))
    storage.delete(url)
    with pytest.raises(MissingError, match=r"^rank 0, shard 1: .*was not found"):
        list(stream_of(index, remote))


def test_with_a_cache_on_the_node_only_the_first_pass_asks_the_server(
    tmp_path: Path, remote: Corpus, index: IndexFile, busy: Faults
) -> None:
    cache = str(tmp_path / "cache")
    first = stream_of(index, remote, cache=cache)
    expected = list(first)
    again = stream_of(index, remote, cache=cache)
    before = busy.num_requests
    for one, other in zip(expected, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert busy.num_requests == before
    assert (again.stats.bytes_read, again.stats.num_requests) == (0, 0)
    assert again.stats.bytes_cached >= again.stats.bytes_selected / 8  # a tar's are mostly padding
