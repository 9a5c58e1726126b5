"""Storage that is busy or cuts connections: real servers behind a proxy that does all that."""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers import S3Server, moto_s3, rclone_s3

from attent_select.errors import StorageError
from catalogs import storage
from catalogs.storage import object_store, patience
from catalogs.storage.s3_credentials import Provider

DATA = bytes(range(256)) * 400


@dataclass
class Faults:
    """What the proxy does wrong next: an HTTP status, `cut` (half an answer) or `drop` (none)."""

    planned: list[Any] = field(default_factory=list)
    num_requests: int = 0

    def next(self) -> Any:
        self.num_requests += 1
        return self.planned.pop(0) if self.planned else None


@contextlib.contextmanager
def faulty(server: S3Server) -> Iterator[tuple[S3Server, Faults]]:
    """A proxy before `server`, and what it shall do wrong."""
    faults, target = Faults(), urlsplit(server.endpoint).netloc

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.next()
            if isinstance(fault, int):
                self.answer(fault, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return
            there = http.client.HTTPConnection(target)
            there.request(self.command, self.path, body, dict(self.headers))
            found = there.getresponse()
            self.answer(found.status, dict(found.getheaders()), found.read(), cut=fault == "cut")
            there.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815

        def answer(
            self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            skipped = ("transfer-encoding", "connection", "content-length")
            for name, value in headers.items():
                if name.lower() not in skipped:
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(body)))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield S3Server(f"http://127.0.0.1:{proxy.server_port}"), faults
        proxy.shutdown()


@pytest.fixture(scope="module", params=[moto_s3, rclone_s3], ids=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    with request.param() as running:
        yield running


@pytest.fixture
def busy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with faulty(server) as (proxied, faults):
        for name, value in proxied.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.01)
        yield faults


FAULTS = [[429], [500, 503], [503, 502, 504, 408], ["drop"], ["drop", 503, "drop"]]


@pytest.mark.parametrize("faults", FAULTS, ids=str)
def test_what_passes_is_waited_for(busy: Faults, faults: list[Any]) -> None:
    url = "s3://bucket/busy.bin"

    def after(faults: list[Any]) -> None:
        assert busy.planned == [], "the faults before were not met"
        busy.planned = list(faults)

    after(faults)
    storage.publish(url, DATA)
    after(faults)
    assert storage.read(url) == DATA
    after(faults)
    assert storage.read_ranges(url, [(5, 10), (100, 50)]) == [DATA[5:15], DATA[100:150]]
    after(faults)
    assert [found.num_bytes for found in storage.list_objects(url)] == [len(DATA)]
    after(faults)
    storage.delete(url)
    assert storage.info(url) is None


def test_an_answer_that_is_cut_off_is_read_again(busy: Faults) -> None:
    storage.publish("s3://bucket/cut.bin", DATA)
    busy.planned = ["cut", "cut"]
    assert storage.read("s3://bucket/cut.bin") == DATA
    assert busy.planned == []


@pytest.mark.parametrize("status", [400, 403, 501])
def test_what_does_not_pass_is_told_at_once(busy: Faults, status: int) -> None:
    busy.planned = [status] * 50
    with pytest.raises(StorageError, match="bucket/refused"):
        storage.publish("s3://bucket/refused.bin", DATA)
    assert len(busy.planned) == 49


def test_a_server_that_stays_busy_is_a_storage_error(
    busy: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.2)
    busy.planned = [503] * 10_000
    with pytest.raises(StorageError, match=r"bucket/never\.bin: .*503"):
        storage.read("s3://bucket/never.bin")
    assert 1 < busy.num_requests < 100


@pytest.mark.parametrize("attempts", [1, 4, 9])
def test_pauses_are_random_below_a_bound_that_doubles(
    attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []

    def drawn(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr(patience.random, "uniform", drawn)
    failures = [ConnectionError(), TimeoutError()] * attempts

    def operation() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert patience.patiently(operation) == "done"
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


def test_credentials_of_a_process_are_renewed_before_they_end(
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
    assert "StorageError: s3://bucket/a.bin" in answers["bad"].stderr
    assert json.dumps("mistyped") not in answers["bad"].stderr
