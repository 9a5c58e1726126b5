"""Real S3 servers on loopback, for tests: moto and rclone, which disagree about the protocol.

rclone answers a ranged GET with 200 and Content-Range instead of 206, and ignores conditional PUTs.
Both choose a free port themselves and print it, which is what starting waits for.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
import threading
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
        """What a client process needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def moto_s3() -> Iterator[S3Server]:
    """moto: answers as Amazon does."""
    with _running([_program("moto_server"), "-H", "127.0.0.1", "-p", "0"]) as endpoint:
        server = S3Server(endpoint)
        _create_bucket(server)
        yield server


@contextlib.contextmanager
def rclone_s3() -> Iterator[S3Server]:
    """rclone: serves a folder, and answers ranges in its own way."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, BUCKET).mkdir()
        command = [_program("rclone"), "serve", "s3", "--auth-key", "key,secret"]
        with _running([*command, "--addr", "127.0.0.1:0", folder]) as endpoint:
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
def _running(command: Sequence[str]) -> Iterator[str]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := _URL.search(line):
                break
        else:
            raise RuntimeError(f"{command[0]} ended before it served: {b''.join(said)!r}")
        # Someone has to read what it goes on saying, or it stops once the pipe is full.
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield found.group().decode()
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def rclone_process(folder: Path, *, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """rclone serving `folder` at a fixed `address`, to be killed and started again."""
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
