"""An S3 server on loopback with added latency and counters: rclone behind a proxy.

The proxy adds latency to each answer and counts requests and body bytes. rclone answers a ranged
GET with 200 and Content-Range; the proxy changes this to 206, as Amazon does, so that every client
works.
"""

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_URL = re.compile(rb"http://127\.0\.0\.1:(\d+)")
_CHUNK = 1 << 18


@dataclass
class SlowS3:
    """A running server. Set `latency_seconds`, and `reset` the counts, at any time."""

    upstream_port: int
    port: int = 0
    latency_seconds: float = 0.0
    num_requests: int = 0
    bytes_sent: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a client process."""
        endpoint = f"http://127.0.0.1:{self.port}"
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "S3_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def reset(self) -> None:
        self.num_requests = self.bytes_sent = 0

    async def serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        """One connection of a client, and its own to the server behind."""
        server, ask = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        ended = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.suppress(*ended):
            while True:
                await self._exchange(client, answer, server, ask)
        for writer in (ask, answer):
            writer.close()

    async def _exchange(
        self,
        client: asyncio.StreamReader,
        answer: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        ask: asyncio.StreamWriter,
    ) -> None:
        head = await client.readuntil(b"\r\n\r\n")
        self.num_requests += 1
        await asyncio.sleep(self.latency_seconds)
        ask.write(head)
        await _copy(client, ask, _length(head))
        reply = await server.readuntil(b"\r\n\r\n")
        if b"\r\ncontent-range:" in reply.lower():
            reply = reply.replace(b" 200 OK", b" 206 Partial Content", 1)
        answer.write(reply)
        if head.startswith(b"HEAD ") or reply.split(b" ", 2)[1] in (b"204", b"304"):
            await answer.drain()
        elif b"\r\ntransfer-encoding: chunked" in reply.lower():
            sent = await _copy_chunks(server, answer)
            self.bytes_sent += sent  # not `+= await`: other tasks count meanwhile
        else:
            sent = await _copy(server, answer, _length(reply))
            self.bytes_sent += sent


def _length(head: bytes) -> int:
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return int(length.group(1)) if length else 0


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, length: int) -> int:
    left = length
    while left:
        piece = await source.read(min(left, _CHUNK))
        if not piece:
            raise ConnectionResetError("the other side ended within a body")
        left -= len(piece)
        target.write(piece)
        await target.drain()
    return length


async def _copy_chunks(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> int:
    total = 0
    while True:
        line = await source.readuntil(b"\r\n")
        target.write(line)
        size = int(line.split(b";")[0], 16)
        await _copy(source, target, size + 2)
        total += size
        if size == 0:
            return total


@contextlib.contextmanager
def slow_s3(folder: Path, *, cpus: list[int]) -> Iterator[SlowS3]:
    """Serve `folder`, whose subfolders are the buckets, on the processors `cpus`."""
    rclone = str(Path(sys.executable).parent / "rclone")
    # Without hashes, for which rclone would read a whole file for each etag.
    command = [rclone, "serve", "s3", "--addr", "127.0.0.1:0", "--etag-hash", "", str(folder)]
    process = subprocess.Popen(
        ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        address = next((match for line in process.stdout if (match := _URL.search(line))), None)
        if address is None:
            raise RuntimeError("rclone ended before it served")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        with _serving(SlowS3(int(address.group(1)))) as proxy:
            yield proxy
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _serving(proxy: SlowS3) -> Iterator[SlowS3]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="slow-s3")
    thread.start()

    async def start() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=_CHUNK)
        proxy.port = server.sockets[0].getsockname()[1]

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
