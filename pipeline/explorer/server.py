"""The server of the explorer: a page, and answers as JSON, on 127.0.0.1."""

import asyncio
import contextlib
import functools
import json
import logging
import math
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attent_select.errors import AttentError, InputError
from catalogs.concurrency import DaemonPool
from pipeline.explorer import answers
from pipeline.explorer.access import Application, Guarded, new_token
from pipeline.explorer.answers import Explorer
from pipeline.explorer.source import AbandonedError, abandoned

_log = logging.getLogger("attent.pipeline.explorer.server")

_PAGE: Final = Path(__file__).parent / "page"
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
# Queries at once; each reads in several threads.
_QUERIES: Final = 3
# Seconds between looks whether the page still waits for an answer.
_POLL_SECONDS: Final = 0.2
_MAX_BODY: Final = 1 << 20
# Seconds that requests in progress have after an interrupt.
_CLOSING_SECONDS: Final = 1


@dataclass(frozen=True)
class Server:
    """A server that has its port, and can be started once."""

    url: str
    socket: socket.socket
    application: Application
    opens_browser: bool = False

    def serve(self) -> None:
        """Answer requests until SIGINT or SIGTERM."""
        config = uvicorn.Config(
            self.application,
            log_config=None,
            access_log=False,  # it would log the token
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_CLOSING_SECONDS,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[self.socket])


def open_server(explorer: Explorer, *, port: int = 0, opens_browser: bool = False) -> Server:
    """Bind 127.0.0.1 at `port` (0: a free one).

    Raises:
        InputError: the port is in use or not allowed.
        ModuleNotFoundError: the library with the charts is missing.
    """
    if find_spec("vl_convert") is None:  # said now, rather than by charts that stay empty
        raise ModuleNotFoundError("vl_convert is not installed", name="vl_convert")
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError as error:
        bound.close()
        raise InputError(
            f"--port {port} cannot be used ({error.strerror}): name another"
        ) from error
    bound.listen(128)
    number, token = bound.getsockname()[1], new_token()
    application = Guarded(application_of(explorer), token, number)
    return Server(f"http://127.0.0.1:{number}/{token}/", bound, application, opens_browser)


def application_of(explorer: Explorer) -> Starlette:
    """Return the application, without its guard."""
    pool = DaemonPool(_QUERIES, name="attent-explore")
    files = DaemonPool(2, name="attent-explore-files")
    routes = [
        Route("/", functools.partial(_file, "index.html")),
        Route("/vega.js", functools.partial(_vega, files)),
        *(
            Route(f"/{path.name}", functools.partial(_file, path.name))
            for path in sorted(_PAGE.iterdir())
            if path.suffix in _TYPES
        ),
        Route("/api/image", functools.partial(_image, explorer, files)),
        *(
            Route(
                f"/api/{name}", functools.partial(_answer, explorer, pool, name), methods=["POST"]
            )
            for name in answers.ANSWERS
        ),
    ]
    return Starlette(routes=routes)


async def _file(name: str, _: Request) -> Response:
    path = _PAGE / name
    return Response(path.read_bytes(), media_type=f"{_TYPES[path.suffix]}; charset=utf-8")


async def _vega(pool: DaemonPool, _: Request) -> Response:
    text = await _in(pool, _charts_library, None)
    return Response(text, media_type="text/javascript; charset=utf-8")


@functools.cache
def _charts_library(_: None) -> str:
    """Return Vega, Vega-Lite and Vega-Embed, as vl-convert brings them."""
    from vl_convert import javascript_bundle

    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))


async def _image(explorer: Explorer, pool: DaemonPool, request: Request) -> Response:
    try:
        data = await _in(pool, explorer.picture, dict(request.query_params))
    except AttentError as error:
        _log.debug("no image: %s", error)
        return Response(status_code=204)  # the page says that there is none
    return Response(data, media_type="image/png")


async def _answer(
    explorer: Explorer,
    pool: DaemonPool,
    name: str,
    request: Request,
) -> Response:
    """Answer a question, a JSON object, by another one, which has `error` if it went wrong."""
    try:
        question = await _read_question(request)
        work = functools.partial(answers.answer_question, explorer, name, question)
        return _json(await _while_connected(request, pool, work))
    except answers.ChangedError as error:
        return _json({"error": str(error), "changed": True})
    except AttentError as error:
        return _json({"error": str(error)})
    except Exception:  # noqa: BLE001 - the server keeps running
        _log.exception("internal error in %s (this is a bug; please report it)", request.url.path)
        return _json({"error": "internal error: see the log of `attent explore`"})


async def _read_question(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY:
            raise InputError("the request is too large")
    try:
        question = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON: {error}") from error
    if not isinstance(question, dict):
        raise InputError("the request is not a JSON object")
    return question


async def _in(pool: DaemonPool, function: Callable[[Any], Any], item: Any) -> Any:
    return await asyncio.wrap_future(pool.submit(function, item))


async def _while_connected(request: Request, pool: DaemonPool, work: Callable[[], Any]) -> Any:
    """Return what `work` returns; give up when the page has closed the connection."""
    event = threading.Event()
    future = asyncio.wrap_future(pool.submit(functools.partial(_abandonable, event), work))
    while not (await asyncio.wait([future], timeout=_POLL_SECONDS))[0]:
        if await request.is_disconnected():
            event.set()
            future.cancel()
            raise AbandonedError("the page has closed the connection")
    return future.result()


def _abandonable(event: threading.Event, work: Callable[[], Any]) -> Any:
    token = abandoned.set(event)
    try:
        return work()
    finally:
        abandoned.reset(token)


def _json(value: Any) -> Response:
    text = json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False)
    data = text.encode("utf-8", "replace")
    return Response(data, media_type="application/json")


def _finite(value: Any) -> Any:
    """Return a value without numbers that JSON lacks, which become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
