"""Stand-in for the Hugging Face hub on loopback: the parts of its API that `HfFileSystem` uses."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """Files by repository and path: `datasets/org/name@revision` or `buckets/org/name`.

    `ranges` are the bytes of the answers to reads, in their order.
    """

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    ranges: list[int] = field(default_factory=list)

    def put(self, repository: str, path: str, content: bytes) -> None:
        """Store a file, or replace it."""
        self.repositories.setdefault(repository, {})[path] = content


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a hub."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(urlsplit(self.path))

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = parse_qs(text) if "=" in text else json.loads(text)
        url = urlsplit(self.path)
        kind, name, revision = _parts(r"/api/(datasets)/([^/]+/[^/]+)/paths-info/(.+)", url.path)
        files = self.served.repositories[f"{kind}/{name}@{revision}"]
        paths = [path for path in form["paths"] if path in files]
        self._send_json([_file(path, files[path], kind) for path in paths])

    def _answer(self, url: Any) -> None:
        if match := _parts(r"/(datasets|buckets)/([^/]+/[^/]+)/resolve/(.+)", url.path):
            self._send_file(*match)
        elif match := _parts(r"/api/(datasets|buckets)/([^/]+/[^/]+)/tree/?(.*)", url.path):
            self._send_tree(*match, recursive=parse_qs(url.query).get("recursive") == ["true"])
        elif match := _parts(r"/api/datasets/([^/]+/[^/]+)(/revision/)?(.*)", url.path):
            known = f"datasets/{match[0]}@{match[2] or 'main'}" in self.served.repositories
            has_repo = any(r.startswith(f"datasets/{match[0]}@") for r in self.served.repositories)
            if known:
                self._send_json({"id": match[0], "sha": "0" * 40, "tags": [], "siblings": []})
            else:
                self._send_missing("RevisionNotFound" if has_repo else "RepoNotFound")
        elif match := _parts(r"/api/buckets/([^/]+/[^/]+)", url.path):
            facts = {"private": False, "createdAt": "2024-01-01T00:00:00.000Z"}
            self._send_json({"id": match[0], "size": 0, "totalFiles": 0, **facts})
        else:
            self._send_missing("EntryNotFound")

    def _files(self, kind: str, name: str, rest: str) -> tuple[dict[str, bytes], str]:
        if kind == "buckets":
            return self.served.repositories.get(f"{kind}/{name}", {}), rest
        refs = re.match(r"(refs/[^/]+/[^/]+|[^/]+)/?(.*)", rest)
        assert refs is not None
        return self.served.repositories.get(f"{kind}/{name}@{refs[1]}", {}), refs[2]

    def _send_tree(self, kind: str, name: str, rest: str, *, recursive: bool) -> None:
        files, folder = self._files(kind, name, rest)
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, content in files.items():
            if not path.startswith(prefix):
                continue
            below = path.removeprefix(prefix)
            if recursive or "/" not in below:
                entries[path] = _file(path, content, kind)
            parents = below.split("/")[:-1]
            for depth in range(1, (len(parents) if recursive else min(1, len(parents))) + 1):
                parent = prefix + "/".join(parents[:depth])
                if kind == "datasets" or not recursive:
                    entries[parent] = {"type": "directory", "path": parent, "size": 0, "oid": "1"}
        if not entries and folder:
            self._send_missing("EntryNotFound")
        else:
            self._send_json(list(entries.values()))

    def _send_file(self, kind: str, name: str, rest: str) -> None:
        files, path = self._files(kind, name, rest)
        if path not in files:
            self._send_missing("EntryNotFound")
            return
        content, status = files[path], 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            last = int(match[2]) if match[2] else len(content) - 1
            content, status = content[int(match[1]) : last + 1], 206
        self.served.ranges.append(len(content))
        self._send(status, content, {})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _parts(pattern: str, path: str) -> tuple[str, ...] | None:
    match = re.fullmatch(pattern, unquote(path))
    return match and match.groups("")  # type: ignore[return-value]


def _file(path: str, content: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if kind == "buckets":
        return {**facts, "xetHash": digest, "mtime": None, "uploadedAt": None}
    return {**facts, "oid": digest}
