"""Access to the explorer: only requests with the token in the URL, by the name of this machine."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

# The types of an ASGI application.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS: Final = {
    # No inline script, no eval, nothing from elsewhere. Images are those of this server.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_NAMES: Final = ("127.0.0.1", "localhost")


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Guarded:
    """An ASGI application behind a token, the first segment of the path.

    The token is in the path rather than in a cookie: cookies of 127.0.0.1 go to all ports, also to
    those of other users. The `Host` is checked, because a name of another domain can point
    here (DNS rebinding).
    """

    application: Application
    token: str
    port: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is allowed, refuse the rest with 403."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        _, _, rest = scope["path"].partition("/")
        token, slash, path = rest.partition("/")
        if not (self._is_this_host(scope) and self._is_token(token) and slash):
            await _refuse(send)
            return
        inner = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode(), "root_path": ""}
        await self.application(inner, receive, _with_headers(send))

    def _is_token(self, token: str) -> bool:
        return secrets.compare_digest(token.encode(), self.token.encode())

    def _is_this_host(self, scope: Scope) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and hosts[0] in [f"{name}:{self.port}" for name in _NAMES]


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_with_headers


async def _refuse(send: Send) -> None:
    body = b"403: the address lacks the token that `attent explore` has printed\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    send = _with_headers(send)
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
