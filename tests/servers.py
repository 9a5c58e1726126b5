"""Real S3 servers on loopback for tests: moto and rclone, which implement the protocol differently.

rclone answers a ranged GET with 200 and Content-Range instead of 206, and ignores conditional PUTs.
Both choose a free port and print it; the start waits for that line.
"""

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BUCKET = "bucket"
_URL = re.compile(rb"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket."""

    endpoint: str

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a client process."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def moto_s3() -> Iterator[S3Server]:
    """Serve S3 with moto, which answers as Amazon does."""
    with _serve([_program("moto_server"), "-H", "127.0.0.1", "-p", "0"]) as endpoint:
        server = S3Server(endpoint)
        _create_bucket(server)
        yield server


@contextlib.contextmanager
def rclone_s3() -> Iterator[S3Server]:
    """Serve a folder with rclone, which answers ranged requests with status 200."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, BUCKET).mkdir()
        command = [_program("rclone"), "serve", "s3", "--auth-key", "key,secret"]
        with _serve([*command, "--addr", "127.0.0.1:0", folder]) as endpoint:
            yield S3Server(endpoint)


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _create_bucket(server: S3Server) -> None:
    import boto3

    names = server.environment
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=names["AWS_REGION"],
        aws_access_key_id=names["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=names["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)


@contextlib.contextmanager
def _serve(command: Sequence[str]) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if match := _URL.search(line):
                break
        else:
            raise RuntimeError(f"{command[0]} ended before it printed its URL: {b''.join(lines)!r}")
        # Read its output, because it blocks when the pipe is full.
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield match.group().decode()
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def rclone_process(folder: Path, *, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve `folder` with rclone at a fixed `address`, to be killed and restarted."""
    command = [_program("rclone"), "serve", "s3", "--auth-key", "key,secret"]
    process = subprocess.Popen(
        [*command, "--addr", address, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_ports(number: int) -> list[int]:
    """Return ports for servers that are killed and restarted at the same address.

    They lie below the ports that the system gives to connections, and apart from those of the other
    processes of pytest-xdist: nothing takes one while its server is down. Suites that run at the
    same time seldom share them.
    """
    suite = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + 2_500 * (zlib.crc32(suite.encode()) % 4) + 500 * process
    ports = filter(_is_free, range(first, first + 500))
    return list(itertools.islice(ports, number))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
