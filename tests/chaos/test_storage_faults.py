"""Runs on an S3 server that is slow, busy, resets connections, lists late or changes a shard."""

import random
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from campaign import result
from faults import Faults, faulty
from servers import moto_s3
from small_runs import small_run

from attent_select.errors import CorpusMismatchError
from catalogs import Corpus, storage
from catalogs.storage import object_store, retry, s3_credentials
from pipeline import run
from pipeline.cluster import Client
from pipeline.config import run_config

# About one request in eight fails.
WEATHER = ["slow", "drop", "cut", 500, 503, 429, (503, "ServiceUnavailable")]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Faults, Mapping[str, str]]]:
    with moto_s3() as real, faulty(real) as (shown, faults):
        yield faults, shown.environment


@pytest.fixture
def faults(
    server: tuple[Faults, Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faults]:
    faults, environment = server
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "_FIRST_SECONDS", 0.02)
    yield faults
    faults.rule, faults.late_seconds = lambda *_: None, 0.0


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shards: Path, client: Client) -> Any:
    folder = tmp_path_factory.mktemp("expected") / "run"
    run(run_config.parse(small_run(folder, shards)), client=client)
    return result(str(folder))


def test_a_run_on_a_server_that_fails_at_random_is_that_on_a_disk(
    faults: Faults, shards: Path, expected: Any, seed: int
) -> None:
    draw, lock = random.Random(seed), threading.Lock()

    def weather(*_: object) -> Any:
        with lock:
            return draw.choice(WEATHER) if draw.random() < 0.12 else None

    faults.rule = weather
    url = f"s3://bucket/weather-{seed}"
    run(run_config.parse(small_run(url, shards)))
    faults.rule = lambda *_: None
    assert result(url) == expected
    print(f"{faults.num_requests} requests, faults {dict(faults.met)}")
    assert sum(faults.met.values()) > 20


def test_a_shard_that_changes_during_a_run_ends_it_by_name(faults: Faults, shards: Path) -> None:
    """The first teaching round finds another etag than the first round did."""
    for path in (shards / "parquet").glob("*.parquet"):
        storage.publish(f"s3://bucket/changing/{path.name}", path)
    values = small_run("s3://bucket/changed", shards)
    values["corpus"]["shards"] = ["s3://bucket/changing"]

    def change(method: str, path: str, _: object) -> None:
        if method == "PUT" and "/metrics/00000" in path:
            faults.rule = lambda *_: None
            data = storage.read("s3://bucket/changing/001.parquet")
            storage.publish("s3://bucket/changing/001.parquet", data + b" ")

    faults.rule = change
    with pytest.raises(CorpusMismatchError, match=r"changing/001\.parquet has changed since"):
        run(run_config.parse(values))
    assert Corpus.open("s3://bucket/changed").num_samples == 240


ROTATING = """
import datetime, json, pathlib, sys
count = pathlib.Path(sys.argv[1])
number = int(count.read_text()) + 1
count.write_text(str(number))
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=2)
print(json.dumps({"Version": 1, "AccessKeyId": f"key{number}", "SecretAccessKey": "secret",
                  "SessionToken": "t", "Expiration": soon.isoformat()}))
"""


def test_credentials_that_expire_are_replaced_without_an_error(
    faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, count, config = tmp_path / "rotate.py", tmp_path / "count", tmp_path / "config"
    script.write_text(ROTATING)
    count.write_text("0")
    config.write_text(
        f"[profile p]\ncredential_process = {sys.executable} {script} {count}\nregion = us-east-1\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    object_store._bucket.cache_clear()
    first_use: dict[str, float] = {}

    def expire(method: str, path: str, headers: Mapping[str, str]) -> Any:
        key = headers["authorization"].partition("Credential=")[2].partition("/")[0]
        first = first_use.setdefault(key, monotonic())
        return (400, "ExpiredToken") if monotonic() - first > 0.5 else None

    faults.rule = expire
    try:
        for number in range(20):
            storage.publish("s3://bucket/renewed.bin", bytes([number]))
            assert storage.read("s3://bucket/renewed.bin") == bytes([number])
            threading.Event().wait(0.1)
    finally:
        object_store._bucket.cache_clear()
    assert len(first_use) > 2
    assert s3_credentials.provider() is not None
