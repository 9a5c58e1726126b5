"""Retry transient storage errors with exponential backoff and full jitter.

Full jitter waits a random time below a bound that doubles, so that a thousand workers do not retry
at once. Every operation of a store may be repeated: reads change nothing, and publishing puts the
same bytes in the same place.
"""

import errno
import random
import re
from collections.abc import Callable, Iterator
from threading import Event
from time import monotonic
from typing import TypeVar

from attent_select.errors import AttentError

Answer = TypeVar("Answer")

# How long an operation is retried before it fails; longer than a server takes to restart.
RETRY_SECONDS = 180.0
_FIRST_SECONDS = 0.1
_MAX_SECONDS = 20.0

_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_STATUS = re.compile(r"status code: (\d{3})")
_ERRNOS = frozenset({errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})
# By name: only the driver knows which client library raises them.
_KINDS = frozenset({
    "ClientConnectorError", "ClientOSError", "ClientPayloadError", "ConnectTimeoutError",
    "ConnectionClosedError", "EndpointConnectionError", "HTTPClientError", "IncompleteReadError",
    "ReadTimeoutError", "ResponseStreamingError", "ServerDisconnectedError", "ServerTimeoutError",
})  # fmt: skip
# Clients without credentials request some here; outside a cloud no retry succeeds.
_METADATA = ("169.254.169.254", "metadata.google.internal")


def retry(operation: Callable[[], Answer]) -> Answer:
    """Return what `operation` returns; retry transient errors for `RETRY_SECONDS`.

    Raises:
        Exception: of the last attempt, or the first error that is not transient.
    """
    deadline = monotonic() + RETRY_SECONDS
    bound = _FIRST_SECONDS
    while True:
        try:
            return operation()
        except Exception as error:
            pause = random.uniform(0, bound)  # noqa: S311 - not a secret
            if not is_transient(error) or monotonic() + pause > deadline:
                raise
        Event().wait(pause)
        bound = min(2 * bound, _MAX_SECONDS)


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later."""
    return any(_is_transient_itself(cause) for cause in _chain(error))


def _is_transient_itself(error: BaseException) -> bool:
    if isinstance(error, AttentError | FileNotFoundError | PermissionError):
        return False
    status = _status(error)
    if status is not None:
        return status in _BUSY
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in _KINDS:
        return True
    if type(error).__name__ == "GenericError":  # of obstore, for errors without a class
        text = str(error)
        return "HTTP error" in text and not any(host in text for host in _METADATA)
    return isinstance(error, OSError) and error.errno in _ERRNOS


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of obstore, botocore or aiohttp."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    if isinstance(status := getattr(error, "status", None), int):
        return status
    match = _STATUS.search(str(error)) if type(error).__name__ == "GenericError" else None
    return int(match[1]) if match else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
