"""Trying again when storage is busy, restarting or out of reach for a moment.

Which errors pass by themselves, and waiting with full jitter: a random time below a bound that
doubles, so that a thousand workers do not come back at once.

Every operation of a store may be repeated: reads change nothing, and publishing puts the same
bytes in the same place.
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

# How long an operation is repeated before it fails; longer than a server takes to restart.
RETRY_SECONDS = 180.0
_FIRST_SECONDS = 0.1
_MOST_SECONDS = 20.0

_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_STATUS = re.compile(r"status code: (\d{3})")
_ERRNOS = frozenset({errno.EBUSY, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN})
# By name: which client library raises them is known to its driver only.
_KINDS = frozenset({
    "ClientConnectorError", "ClientOSError", "ClientPayloadError", "ConnectTimeoutError",
    "ConnectionClosedError", "EndpointConnectionError", "HTTPClientError", "IncompleteReadError",
    "ReadTimeoutError", "ResponseStreamingError", "ServerDisconnectedError", "ServerTimeoutError",
})  # fmt: skip
# Where clients without credentials ask for some: not there outside a cloud, however often one asks.
_METADATA = ("169.254.169.254", "metadata.google.internal")


def retry(operation: Callable[[], Answer]) -> Answer:
    """What `operation` returns, repeated while it fails for a reason that may pass.

    Raises:
        Exception: of the last attempt, after `RETRY_SECONDS`; any other error at once.
    """
    deadline = monotonic() + RETRY_SECONDS
    bound = _FIRST_SECONDS
    while True:
        try:
            return operation()
        except Exception as error:
            pause = random.uniform(0, bound)  # noqa: S311 - no secret
            if not is_transient(error) or monotonic() + pause > deadline:
                raise
        Event().wait(pause)
        bound = min(2 * bound, _MOST_SECONDS)


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed a little later."""
    return any(_is_transient(one) for one in _chain(error))


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, AttentError | FileNotFoundError | PermissionError):
        return False
    status = _status(error)
    if status is not None:
        return status in _BUSY
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in _KINDS:
        return True
    if type(error).__name__ == "GenericError":  # obstore's, for all that has no class of its own
        text = str(error)
        return "HTTP error" in text and not any(place in text for place in _METADATA)
    return isinstance(error, OSError) and error.errno in _ERRNOS


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of obstore, botocore or aiohttp."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    if isinstance(status := getattr(error, "status", None), int):
        return status
    found = _STATUS.search(str(error)) if type(error).__name__ == "GenericError" else None
    return int(found[1]) if found else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
