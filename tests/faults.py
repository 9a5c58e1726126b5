"""Proxy in front of an S3 server that injects planned faults."""

import contextlib
import http.client
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import unquote, urlsplit

from servers import BUCKET, S3Server


@dataclass
class Faults:
    """Faults of the next requests: an HTTP status, a status and the code of an error, `cut` (half
    an answer), `drop` (no answer), `lose` (done, but no answer), `slow` (after 0.3 seconds), or
    `stall` (no answer until `release` is set).

    Attributes:
        rule: the fault of a request (method, path, headers) when none is planned.
        late_seconds: an object is listed only after this time.
    """

    planned: list[Any] = field(default_factory=list)
    num_requests: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    rule: Callable[[str, str, Mapping[str, str]], Any] = lambda method, path, headers: None
    late_seconds: float = 0.0
    written: dict[str, float] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)

    def next(self, method: str, path: str, headers: Mapping[str, str]) -> Any:
        self.num_requests += 1
        fault = self.planned.pop(0) if self.planned else self.rule(method, path, headers)
        if fault is not None:
            self.met[str(fault)] += 1
        return fault

    def ends(self, fault: Any) -> bool:
        """Wait as the fault says; return whether it ends the connection without an answer."""
        if fault == "slow":
            threading.Event().wait(0.3)
        if fault == "stall":
            self.release.wait()
        return fault in ("drop", "stall")

    def answered(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> bytes:
        """Note what is written; return the content of an answer, of a listing without some."""
        if method in ("PUT", "POST"):
            key = path.partition("?")[0].removeprefix(f"/{BUCKET}/")
            self.written[unquote(key)] = monotonic()
        elif self.late_seconds and method == "GET" and "list-type=2" in path:
            headers.pop("Content-Length", None)
            return self._without_late(content)
        return content

    def _without_late(self, listing: bytes) -> bytes:
        """Return a listing without the objects that were written a moment ago."""

        def is_late(entry: re.Match[bytes]) -> bool:
            key = re.search(rb"<Key>(.*?)</Key>", entry[0])
            written = self.written.get(key[1].decode() if key else "", 0.0)
            return monotonic() - written < self.late_seconds

        pattern = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
        return pattern.sub(lambda entry: b"" if is_late(entry) else entry[0], listing)


def _is_conditional(headers: Mapping[str, str]) -> bool:
    return not {"if-match", "if-none-match"}.isdisjoint(name.lower() for name in headers)


def rejected(method: str, path: str, headers: Mapping[str, str]) -> Any:
    """Reject conditional writes; a rule."""
    return (501, "NotImplemented") if _is_conditional(headers) else None


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    own = ("transfer-encoding", "connection", "content-length")
    return [(name, value) for name, value in headers.items() if name.lower() not in own]


@contextlib.contextmanager
def faulty(server: S3Server) -> Iterator[tuple[S3Server, Faults]]:
    """Yield a proxy in front of `server`, and the faults that it injects."""
    faults, target = Faults(), urlsplit(server.endpoint).netloc
    # moto checks a condition, then writes: another write may come between, unlike in a real store.
    one_condition = threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = faults.next(self.command, self.path, dict(self.headers))
            if isinstance(fault, int | tuple):
                status, code = fault if isinstance(fault, tuple) else (fault, "SlowDown")
                self.answer(status, {}, f"<Error><Code>{code}</Code></Error>".encode())
            elif faults.ends(fault):
                self.close_connection = True
                self.connection.close()
            else:
                self.pass_on(body, fault=fault)

        def pass_on(self, body: bytes, *, fault: str | None) -> None:
            with one_condition if _is_conditional(self.headers) else contextlib.nullcontext():
                upstream = http.client.HTTPConnection(target)
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                received = reply.read()
                upstream.close()
            headers = dict(reply.getheaders())
            content = faults.answered(self.command, self.path, received, headers)
            if fault == "lose":
                self.close_connection = True
                self.connection.close()
            else:
                self.answer(reply.status, headers, content, cut=fault == "cut")

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815

        def answer(
            self, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in _passed_on(headers):
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
