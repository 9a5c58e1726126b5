"""Node cache: the same bytes, bounded and shared; kills are in tests/chaos."""

import errno
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attent_select.errors import InputError
from catalogs import storage
from catalogs.storage.node_cache import NodeCache
from catalogs.storage.objects import Range

DATA = random.Random(0).randbytes(8_000_000)
RANGES = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 99)), min_size=1, max_size=6)


class Server:
    """Serves ranges of DATA and records the requests."""

    def __init__(self) -> None:
        self.requests: list[Range] = []

    def __call__(self, ranges: Sequence[Range]) -> list[bytes]:
        self.requests += ranges
        return [DATA[offset : offset + size] for offset, size in ranges]


def read(cache: NodeCache, ranges: list[Range], server: Server, etag: str = "e") -> list[bytes]:
    data_ranges, num_cached = cache.read_ranges("s3://b/x", ranges, etag=etag, fetch=server)
    assert data_ranges == [DATA[offset : offset + size] for offset, size in ranges]
    assert 0 <= num_cached <= sum(map(len, data_ranges))
    return data_ranges


@given(st.lists(RANGES, max_size=4), st.sampled_from(["one process", "several"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_cached_ranges_are_returned_and_never_requested_again(
    tmp_path: Path, reads: list[list[Range]], who: str
) -> None:
    server, cache = Server(), NodeCache(str(tmp_path), max_bytes=1 << 30)
    etag = os.urandom(8).hex()
    for ranges in reads:
        if who == "several":
            cache = NodeCache(str(tmp_path), max_bytes=1 << 30)
        read(cache, ranges, server, etag)
    server.requests.clear()
    for ranges in reads:
        read(cache, ranges, server, etag)
    assert server.requests == []


def test_another_etag_is_another_object(tmp_path: Path) -> None:
    server, cache = Server(), NodeCache(str(tmp_path), max_bytes=1 << 30)
    read(cache, [(5, 10)], server)
    read(cache, [(5, 10)], server, etag="other")
    read(cache, [(5, 10)], server)
    assert server.requests == [(5, 10)] * 2


def test_the_cache_stays_within_its_limit_and_keeps_recently_used_objects(tmp_path: Path) -> None:
    server, cache = Server(), NodeCache(str(tmp_path), max_bytes=1 << 20)
    for number in range(40):
        read(cache, [(0, 100_000)], server, etag=str(number))
        used = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*"))
        assert used <= 1 << 20
    num_requests = len(server.requests)
    assert num_requests == 40
    read(cache, [(0, 100_000)], server, etag="39")
    assert len(server.requests) == num_requests
    read(cache, [(0, 100_000)], server, etag="0")
    assert len(server.requests) == num_requests + 1


def test_caches_of_earlier_boots_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "attent-an-earlier-boot" / "x" / "data"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of unknown value")
    read(NodeCache(str(tmp_path), max_bytes=1 << 20), [(0, 10)], Server())
    assert not left.exists()


def test_leftovers_of_a_killed_eviction_are_removed(tmp_path: Path) -> None:
    read(NodeCache(str(tmp_path), max_bytes=1 << 20), [(0, 10)], Server())
    (kept,) = tmp_path.glob("attent-*/*/data")
    left = kept.parent.with_name("evicted-0") / "data"
    left.parent.mkdir()
    left.write_bytes(DATA)
    read(NodeCache(str(tmp_path), max_bytes=1 << 20), [(0, 20)], Server())
    assert kept.exists()
    assert not left.exists()


def test_a_failing_disk_causes_one_warning_and_its_ranges_are_requested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, server, pread = NodeCache(str(tmp_path), max_bytes=1 << 20), Server(), os.pread
    read(cache, [(0, 10), (20, 10)], server)
    server.requests.clear()

    def fails(descriptor: int, size: int, offset: int) -> bytes:
        if offset == 20:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", fails)
    with pytest.warns(UserWarning, match="cannot be used .*Input/output error") as caught:
        read(cache, [(0, 10), (20, 10)], server)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(cache, [(20, 10)], server)
    assert server.requests == [(20, 10)] * 2


def test_a_read_only_folder_causes_one_warning_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    server, cache = Server(), NodeCache(str(tmp_path / "file" / "below"), max_bytes=1 << 20)
    with pytest.warns(UserWarning, match="cannot be used"):
        read(cache, [(0, 10)], server)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(cache, [(0, 10)], server)
    assert len(server.requests) == 2


FULL = """
import resource, sys, warnings
from catalogs.storage.node_cache import NodeCache
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as a full disk: writing fails
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
data = bytes(range(256)) * 400
cache = NodeCache(sys.argv[1], max_bytes=1 << 20)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for extent in [(0, 1000), (40_000, 60_000), (0, 1000), (40_000, 60_000)]:
        data_ranges, cached = cache.read_ranges(
            "s3://b/x", [extent], etag="e", fetch=lambda rs: [data[o : o + n] for o, n in rs])
        assert data_ranges == [data[extent[0] : sum(extent)]]
        print(cached)
assert len(caught) == 1
"""


def test_a_full_disk_keeps_cached_ranges_and_requests_the_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["0", "0", "1000", "0"], done.stderr


def test_remote_objects_are_read_through_the_cache_of_the_policy(tmp_path: Path) -> None:
    storage.publish("memory://cached/x", DATA)
    stored = storage.info("memory://cached/x")
    assert stored is not None
    cache = NodeCache(str(tmp_path), max_bytes=1 << 20)
    meter = storage.ReadMeter()
    with storage.use_read_policy(storage.ReadPolicy(cache=cache, meter=meter)):
        for _ in range(2):
            data_ranges = storage.read_ranges(stored.url, [(3, 10)], etag=stored.etag)
            assert data_ranges == [DATA[3:13]]
        # Without an etag, a change of the object cannot be detected.
        storage.read_ranges(stored.url, [(3, 10)])
    assert (meter.num_bytes, meter.num_requests, meter.cached_bytes) == (20, 2, 10)


def test_a_cache_of_zero_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 bytes"):
        NodeCache(str(tmp_path), max_bytes=0)
