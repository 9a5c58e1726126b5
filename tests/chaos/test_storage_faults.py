"""Runs on an S3 server that is slow, busy, resets connections, lists late or changes a shard."""

import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import patch

import pytest
from campaign import result
from faults import Faults, faulty, rejected
from servers import moto_s3
from small_runs import often_saved

from attent_select.errors import CorpusMismatchError
from catalogs import Corpus, storage
from catalogs.storage import retry
from pipeline import run
from pipeline.cluster import Client, connect
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings

# About one request in eight fails.
WEATHER = ["slow", "drop", "cut", 500, 503, 429, (503, "ServiceUnavailable")]


# Each time other keys. Botocore asks for new ones 15 minutes before they expire: after 2 seconds.
ROTATING = """
import datetime, json, uuid
soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=15, seconds=2)
print(json.dumps({"Version": 1, "AccessKeyId": uuid.uuid4().hex, "SecretAccessKey": "secret",
                  "SessionToken": "t", "Expiration": soon.isoformat()}))
"""
EXPIRE_SECONDS = 6.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Faults, Mapping[str, str]]]:
    """A server behind faults, and variables of clients whose credentials change."""
    folder = tmp_path_factory.mktemp("credentials")
    script, config = folder / "rotate.py", folder / "config"
    script.write_text(ROTATING)
    config.write_text(f"[profile p]\ncredential_process = {sys.executable} -S {script}\n")
    with moto_s3() as real, faulty(real) as (shown, faults):
        names = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
        variables = {name: shown.environment[name] for name in names}
        yield faults, variables | {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "p"}


@pytest.fixture(scope="module")
def on_store(server: tuple[Faults, Mapping[str, str]]) -> Iterator[Client]:
    """Workers that reach the server."""
    with patch.dict(os.environ, server[1]), connect(ClusterSettings(workers=2)) as client:
        yield client


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
def expected(tmp_path_factory: pytest.TempPathFactory, shards: Path, on_store: Client) -> Any:
    folder = tmp_path_factory.mktemp("expected") / "run"
    run(run_config.parse(often_saved(folder, shards)), client=on_store)
    return result(str(folder))


def test_a_run_on_a_server_that_fails_at_random_is_that_on_a_disk(
    faults: Faults, shards: Path, on_store: Client, expected: Any, seed: int
) -> None:
    draw, lock = random.Random(seed), threading.Lock()

    def weather(*_: object) -> Any:
        with lock:
            return draw.choice(WEATHER) if draw.random() < 0.12 else None

    faults.rule = weather
    url = f"s3://bucket/weather-{seed}"
    run(run_config.parse(often_saved(url, shards)), client=on_store)
    faults.rule = lambda *_: None
    assert result(url) == expected
    print(f"{faults.num_requests} requests, faults {dict(faults.met)}")
    assert sum(faults.met.values()) > 20


@pytest.mark.parametrize("late_seconds", [1.0, 10.0])
def test_a_run_on_a_store_that_lists_late_and_rejects_conditions_is_that_on_a_disk(
    faults: Faults, shards: Path, on_store: Client, expected: Any, late_seconds: float
) -> None:
    faults.rule, faults.late_seconds = rejected, late_seconds
    url = f"s3://bucket/late-{late_seconds}"
    run(run_config.parse(often_saved(url, shards)), client=on_store)
    faults.late_seconds = 0.0
    assert result(url) == expected


def test_a_shard_that_changes_during_a_run_ends_it_by_name(
    faults: Faults, shards: Path, on_store: Client
) -> None:
    """The first teaching round finds another etag than the first round did."""
    for path in (shards / "parquet").glob("*.parquet"):
        storage.publish(f"s3://bucket/changing/{path.name}", path)
    values = often_saved("s3://bucket/changed", shards)
    values["corpus"]["shards"] = ["s3://bucket/changing"]

    def change(method: str, path: str, _: object) -> None:
        if method == "PUT" and "/metrics/00000" in path:
            faults.rule = lambda *_: None
            data = storage.read("s3://bucket/changing/001.parquet")
            storage.publish("s3://bucket/changing/001.parquet", data + b" ")

    faults.rule = change
    with pytest.raises(CorpusMismatchError, match=r"changing/001\.parquet has changed since"):
        run(run_config.parse(values), client=on_store)
    assert Corpus.open("s3://bucket/changed").num_samples == 240


def test_a_run_whose_credentials_expire_again_and_again_is_that_on_a_disk(
    faults: Faults, shards: Path, on_store: Client, expected: Any
) -> None:
    first_use: dict[str, float] = {}

    def expire(method: str, path: str, headers: Mapping[str, str]) -> Any:
        key = headers["authorization"].partition("Credential=")[2].partition("/")[0]
        first = first_use.setdefault(key, monotonic())
        return (400, "ExpiredToken") if monotonic() - first > EXPIRE_SECONDS else None

    faults.rule = expire
    url = "s3://bucket/expiring"
    run(run_config.parse(often_saved(url, shards)), client=on_store)
    faults.rule = lambda *_: None
    assert result(url) == expected
    print(f"{len(first_use)} keys")
    # Of the driver and two workers, which renew them.
    assert len(first_use) > 3
