"""Proxy in front of an S3 server that injects planned faults."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from servers import S3Server


@dataclass
class Faults:
    """Faults of the next requests: an HTTP status, `cut` (half an answer), `drop` (no answer), or
    `stall` (no answer until `release` is set).
    """

    planned: list[Any] = field(default_factory=list)
    num_requests: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    def next(self) -> Any:
        self.num_requests += 1
        return self.planned.pop(0) if self.planned else None


@contextlib.contextmanager
def faulty(server: S3Server) -> Iterator[tuple[S3Server, Faults]]:
    """Yield a proxy in front of `server`, and the faults that it injects."""
    faults, target = Faults(), urlsplit(server.endpoint).netloc

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.next()
            if isinstance(fault, int):
                self.answer(fault, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            if fault == "stall":
                faults.release.wait()
            if fault in ("drop", "stall"):
                self.close_connection = True
                self.connection.close()
                return
            upstream = http.client.HTTPConnection(target)
            upstream.request(self.command, self.path, body, dict(self.headers))
            reply = upstream.getresponse()
            self.answer(reply.status, dict(reply.getheaders()), reply.read(), cut=fault == "cut")
            upstream.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815

        def answer(
            self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            own_headers = ("transfer-encoding", "connection", "content-length")
            for name, value in headers.items():
                if name.lower() not in own_headers:
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
