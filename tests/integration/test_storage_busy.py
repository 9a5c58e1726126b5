"""Storage that is busy or drops connections: real servers behind a proxy that injects faults."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Faults, faulty
from servers import S3Server, moto_s3, rclone_s3

from attent_select.errors import StorageError
from catalogs import storage
from catalogs.storage import object_store, retry
from catalogs.storage.s3_credentials import Provider

DATA = bytes(range(256)) * 400


@pytest.fixture(scope="module", params=[moto_s3, rclone_s3], ids=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with request.param() as running:
        yield running


@pytest.fixture
def busy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with faulty(server) as (proxied, faults):
        for name, value in proxied.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(retry, "_FIRST_SECONDS", 0.01)
        yield faults


def test_what_this_process_wrote_is_listed_by_a_store_that_lists_late(
    busy: Faults, tmp_path: Path
) -> None:
    busy.late_seconds = 60.0
    for name in ("a.bin", "b.bin"):
        storage.publish(f"s3://bucket/late/{name}", DATA)
    storage.publish("s3://bucket/later.bin", DATA)
    names = [stored.url.rpartition("/")[2] for stored in storage.list_objects("s3://bucket/late")]
    assert names == ["a.bin", "b.bin"]
    storage.delete("s3://bucket/late/a.bin")
    object_store._bucket.cache_clear()  # as another process
    assert storage.list_objects("s3://bucket/late") == []
    storage.download_files("s3://bucket/late", ["b.bin"], to=tmp_path)
    assert (tmp_path / "b.bin").read_bytes() == DATA


FAULTS = [[429], [500, 503], [503, 502, 504, 408], ["drop"], ["drop", 503, "drop"]]


@pytest.mark.parametrize("faults", FAULTS, ids=str)
def test_transient_errors_are_retried(busy: Faults, faults: list[Any]) -> None:
    url = "s3://bucket/busy.bin"

    def plan(faults: list[Any]) -> None:
        assert busy.planned == [], "earlier faults were not met"
        busy.planned = list(faults)

    plan(faults)
    storage.publish(url, DATA)
    plan(faults)
    assert storage.read(url) == DATA
    plan(faults)
    assert storage.read_ranges(url, [(5, 10), (100, 50)]) == [DATA[5:15], DATA[100:150]]
    plan(faults)
    assert [stored.num_bytes for stored in storage.list_objects(url)] == [len(DATA)]
    plan(faults)
    storage.delete(url)
    assert storage.info(url) is None


def test_a_truncated_answer_is_retried(busy: Faults) -> None:
    storage.publish("s3://bucket/cut.bin", DATA)
    busy.planned = ["cut", "cut"]
    assert storage.read("s3://bucket/cut.bin") == DATA
    assert busy.planned == []


@pytest.mark.parametrize("status", [400, 403, 501])
def test_permanent_errors_are_raised_at_once(busy: Faults, status: int) -> None:
    busy.planned = [status] * 50
    with pytest.raises(StorageError, match="bucket/refused"):
        storage.publish("s3://bucket/refused.bin", DATA)
    assert len(busy.planned) == 49


def test_a_server_that_stays_busy_is_a_storage_error(
    busy: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_SECONDS", 0.2)
    busy.planned = [503] * 10_000
    with pytest.raises(StorageError, match=r"bucket/never\.bin: .*503"):
        storage.read("s3://bucket/never.bin")
    assert 1 < busy.num_requests < 100


@pytest.mark.parametrize("attempts", [1, 4, 9])
def test_pauses_are_random_below_a_bound_that_doubles(
    attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr(retry.random, "uniform", draw)
    failures = [ConnectionError(), TimeoutError()] * attempts

    def operation() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert retry.retry(operation) == "done"
    assert bounds == [(0, min(0.1 * 2**number, 20)) for number in range(2 * attempts)]


ROTATING = """
import datetime, json, pathlib, sys
count = pathlib.Path(sys.argv[1])
number = int(count.read_text()) + 1
count.write_text(str(number))
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=2)
print(json.dumps({"Version": 1, "AccessKeyId": "key", "SecretAccessKey": f"secret-{number}",
                  "SessionToken": "t", "Expiration": soon.isoformat()}))
"""


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    object_store._bucket.cache_clear()


def test_credentials_of_a_process_are_renewed_before_they_expire(
    tmp_path: Path, no_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, count, config = tmp_path / "rotate.py", tmp_path / "count", tmp_path / "config"
    script.write_text(ROTATING)
    count.write_text("0")
    config.write_text(
        f"[profile p]\ncredential_process = {sys.executable} {script} {count}\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    provider = Provider()
    assert [provider()["secret_access_key"] for _ in range(2)] == ["secret-2", "secret-3"]


def test_a_profile_that_does_not_exist_is_named(
    no_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(StorageError, match=r"no S3 credentials found: .*profile \(absent\)"):
        storage.info("s3://bucket/a.bin")


def test_the_keys_of_a_profile_are_used(
    tmp_path: Path, no_keys: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "credentials"
    keys.write_text(
        "[good]\naws_access_key_id = key\naws_secret_access_key = secret\n"
        "[bad]\naws_access_key_id = key\naws_secret_access_key = mistyped\n"
    )
    program = (
        "from catalogs import storage\n"
        "storage.publish('s3://bucket/a.bin', b'data')\n"
        "print(storage.read('s3://bucket/a.bin'))\n"
    )
    with rclone_s3() as server:
        for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, server.environment[name])
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
        answers = {}
        for profile in ("good", "bad"):
            monkeypatch.setenv("AWS_PROFILE", profile)
            answers[profile] = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=False
            )
    assert answers["good"].stdout.strip() == "b'data'"
    assert answers["bad"].returncode != 0
    assert "AccessDeniedError: s3://bucket/a.bin" in answers["bad"].stderr
    assert json.dumps("mistyped") not in answers["bad"].stderr
