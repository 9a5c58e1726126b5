"""Lance shards in buckets, whose rows pylance reads by itself."""

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import Faults, faulty
from servers import S3Server, moto_s3, rclone_s3

from attent_select.errors import CorpusMismatchError, MissingError, StorageError
from catalogs import storage
from catalogs.formats.lance import Lance
from catalogs.shard_format import Shard
from catalogs.storage import retry
from catalogs.testing import ingest

pytest.importorskip("lance.file", reason="pylance is not installed")

NUM_ROWS = 600
# Far from each other: each is a request.
ROWS = list(range(3, NUM_ROWS, 60))
URL = "s3://bucket/shards/shard.lance"


def image(row: int) -> bytes:
    return random.Random(row).randbytes(20_000)


IMAGES = {"image": [image(row) for row in ROWS], "label": ROWS}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    path = tmp_path_factory.mktemp("lance") / "shard.lance"
    samples = ({"image": image(row), "label": row} for row in range(NUM_ROWS))
    return ingest(Lance(), path, list(samples))


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[S3Server, Faults]]:
    with moto_s3() as server, faulty(server) as shown:
        yield shown


@pytest.fixture
def faults(proxied: tuple[S3Server, Faults], monkeypatch: pytest.MonkeyPatch) -> Faults:
    server, faults = proxied
    use(server, monkeypatch)
    monkeypatch.setattr(retry, "_FIRST_SECONDS", 0.01)
    faults.planned.clear()
    return faults


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def published(shard: Shard, *, url: str = URL) -> Shard:
    storage.publish(url, Path(shard.uri))
    stored = storage.info(url)
    assert stored is not None
    assert Lance().inspect(url).num_samples == NUM_ROWS
    return replace(shard, uri=url, etag=stored.etag)


def values_of(shard: Shard) -> dict[str, list[Any]]:
    return Lance().read(shard, rows=ROWS, columns=["image", "label"]).values


def test_rows_in_a_bucket_cost_the_requests_that_the_server_sees(
    local: Shard, faults: Faults
) -> None:
    shard = published(local)
    values_of(shard)  # opens the file
    before, sizes = faults.num_requests, list[int]()

    def note(method: str, path: str, headers: Mapping[str, str]) -> None:
        extent = headers.get("range", headers.get("Range", ""))
        if method == "GET" and extent:
            first, last = extent.removeprefix("bytes=").split("-")
            sizes.append(int(last) - int(first) + 1)

    faults.rule = note
    meter = storage.ReadMeter()
    with storage.use_read_policy(storage.ReadPolicy(meter=meter)):
        reading = Lance().read(shard, rows=ROWS, columns=["image", "label"])
    faults.rule = Faults().rule
    assert reading.values == IMAGES
    # One for the etag.
    assert faults.num_requests - before == len(sizes) + 1
    assert reading.num_requests == meter.num_requests == pytest.approx(len(sizes) + 1, abs=3)
    assert reading.bytes_read == meter.num_bytes == pytest.approx(sum(sizes), rel=0.1)
    assert reading.bytes_read < 1.3 * reading.bytes_selected


def test_transient_errors_are_retried(local: Shard, faults: Faults) -> None:
    shard = published(local)
    faults.planned = [503, "drop", "cut", 500, "drop", 429, "cut"]
    assert values_of(shard) == IMAGES
    assert faults.planned == []


def test_a_server_that_stays_busy_is_an_error_of_storage(
    local: Shard, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = published(local)
    values_of(shard)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 1.0)
    # The etag is read by HEAD.
    faults.rule = lambda method, path, headers: 503 if method == "GET" else None
    with pytest.raises(StorageError, match=rf"^{URL}: .*503") as caught:
        values_of(shard)
    faults.rule = Faults().rule
    assert "\n" not in str(caught.value)


def test_deleted_and_replaced_objects_are_named(local: Shard, faults: Faults) -> None:
    shard = published(local)
    values_of(shard)
    storage.publish(URL, Path(local.uri).read_bytes() + b"\0")
    with pytest.raises(CorpusMismatchError, match=URL):
        values_of(shard)
    storage.delete(URL)
    with pytest.raises(MissingError, match=URL):
        values_of(shard)


def test_a_server_that_answers_ranges_differently_gives_whole_files(
    local: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rclone_s3() as server:
        use(server, monkeypatch)
        shard = published(local)
        reading = Lance().read(shard, rows=ROWS, columns=["image", "label"])
    assert reading.values == IMAGES
    assert (reading.num_requests, reading.bytes_read) == (1, shard.num_bytes)


def test_credentials_of_a_profile_are_used(
    tmp_path: Path, local: Shard, proxied: tuple[S3Server, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, faults = proxied
    use(server, monkeypatch)
    shard = published(local)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    credentials = tmp_path / "credentials"
    credentials.write_text("[chosen]\naws_access_key_id=other\naws_secret_access_key=secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "chosen")
    keys = set[str]()

    def note(method: str, path: str, headers: Mapping[str, str]) -> None:
        names = {name.lower(): value for name, value in headers.items()}
        keys.add(names["authorization"].split("Credential=")[1].split("/")[0])

    faults.rule = note
    script = (
        "import pickle, sys; from catalogs.formats.lance import Lance\n"
        "shard, rows = pickle.load(sys.stdin.buffer)\n"
        "sys.exit(Lance().read(shard, rows=rows, columns=['label']).values != {'label': rows})"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps((shard, ROWS)), check=False
    )
    faults.rule = Faults().rule
    assert process.returncode == 0
    assert keys == {"other"}
