"""What storage is made of: objects, the protocol of a store, and the checks every store makes.

Values, pure checks, and the translation of other people's errors.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attent_select.errors import (
    AccessDeniedError,
    AttentError,
    CorpusMismatchError,
    MissingError,
    NoSpaceError,
    StorageError,
)

# No space, over the quota, larger than files may be.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What obstore raises for credentials that are wrong or may too little.
_REFUSED = ("PermissionDeniedError", "UnauthenticatedError")

# (offset, num_bytes) within an object.
Range = tuple[int, int]


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object. `etag` changes whenever its bytes do."""

    url: str
    num_bytes: int
    etag: str


class Storage(Protocol):
    """Bytes at URLs of one kind. Every method may be called from many threads."""

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        """All bytes of an object."""
        ...

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        """The bytes of each range, in the order of `ranges`."""
        ...

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        """The object at `prefix`, or every object under the folder `prefix`; in any order."""
        ...

    def publish(self, url: str, data: bytes | Path) -> None:
        """Put a complete object in place; readers see the old one or the new one, never a piece."""
        ...

    def delete(self, url: str) -> None:
        """Remove an object; nothing happens if it is not there."""
        ...


def missing_error(url: str) -> MissingError:
    """The error for an object that is not there."""
    return MissingError(f"{url} is not there: expected a file or object with that name")


def check_etag(url: str, *, found: str, expected: str | None) -> None:
    """Raises `CorpusMismatchError` unless `found` is the etag that was expected (None: any)."""
    if expected is not None and found != expected:
        raise CorpusMismatchError(
            f"{url} has changed since it was ingested: its etag is {found}, the corpus says"
            f" {expected}. Put the old file back, or ingest the new one into a new run"
        )


def check_length(url: str, data: bytes, wanted: Range) -> bytes:
    """`data` itself. Raises `StorageError` unless it is as long as was asked for."""
    offset, num_bytes = wanted
    if len(data) != num_bytes:
        raise StorageError(
            f"{url}: asked for {num_bytes} bytes at offset {offset}, got {len(data)};"
            " the object is shorter than expected or the connection was cut"
        )
    return data


def unquote_etag(etag: str | None) -> str:
    """An etag without the quotes and the weakness mark of HTTP."""
    return (etag or "").removeprefix("W/").strip('"')


@contextlib.contextmanager
def translate_errors(url: str, *more: type[Exception]) -> Iterator[None]:
    """Turns what stores raise (`OSError`, `ValueError`, `more`) into our errors naming `url`."""
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, *more)
    try:
        with explain_full_disk(url):
            yield
    except AttentError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_error(url) from error
    except kinds as error:
        # obstore appends pages of debugging output; the cause keeps them.
        said = str(getattr(error, "strerror", None) or error).partition("\n\nDebug source")[0]
        reason = f"{url}: {' '.join(said.split())}"
        if isinstance(error, PermissionError) or type(error).__name__ in _REFUSED:
            hint = "Check the credentials in the environment, and what they may do there"
            raise AccessDeniedError(f"{reason}. {hint}") from error
        raise StorageError(reason) from error


@contextlib.contextmanager
def explain_full_disk(url: str) -> Iterator[None]:
    """Turns the errors of a full disk into one that says what to do. Nothing else is caught."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise NoSpaceError(
            f"{url} was not written: {os.strerror(error.errno).lower()}. Free some space there and"
            f" in {tempfile.gettempdir()}, where files are made first (TMPDIR names another place),"
            " or raise the limit, then run the command again"
        ) from error
