"""Storage protocol, its values, and the checks and error translation that every store needs."""

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
    is_panic,
)

# No space, over quota, larger than the file system allows.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Errors of obstore for credentials that are invalid or lack permission.
_ACCESS_DENIED = ("PermissionDeniedError", "UnauthenticatedError")
# An S3 client without credentials requests the role of the machine here.
_ROLE_HOST = "169.254.169.254"

# (offset, num_bytes) within an object.
Range = tuple[int, int]
# What a store compares before a conditional write: its etag, its generation, or both.
Version = dict[str, str]


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object. `etag` changes whenever its bytes do."""

    url: str
    num_bytes: int
    etag: str


class Storage(Protocol):
    """Bytes at URLs of one kind. Every method may be called from many threads."""

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        """Read all bytes of an object."""
        ...

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        """Read the bytes of each range, in the order of `ranges`."""
        ...

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        """List the object at `prefix`, or every object under that folder, in any order."""
        ...

    def publish(self, url: str, data: bytes | Path) -> None:
        """Put a complete object in place; readers see the old or new object, never a part."""
        ...

    def delete(self, url: str) -> None:
        """Delete an object, if it exists."""
        ...


class ConditionalStorage(Protocol):
    """Conditional writes: only if an object is as it was when it was read."""

    def read_version(self, url: str) -> tuple[bytes, Version]:
        """Read an object and its version."""
        ...

    def write_if(self, url: str, data: bytes, *, version: Version | None) -> Version | None:
        """Write over `version` only (None: a new object); return the new one, None if refused."""
        ...


def missing_error(url: str) -> MissingError:
    """Return the error for an object that was not found."""
    return MissingError(f"{url} was not found: expected a file or object with that name")


def check_etag(url: str, *, actual: str, expected: str | None) -> None:
    """Raise `CorpusMismatchError` unless `actual` is the `expected` etag (None: any)."""
    if expected is not None and actual != expected:
        raise CorpusMismatchError(
            f"{url} has changed since it was ingested: its etag is {actual}, expected"
            f" {expected}. Restore the old file, or ingest the new file into a new run"
        )


def check_length(url: str, data: bytes, extent: Range) -> bytes:
    """Return `data`. Raises `StorageError` unless it has the length of `extent`."""
    offset, num_bytes = extent
    if len(data) != num_bytes:
        raise StorageError(
            f"{url}: requested {num_bytes} bytes at offset {offset}, got {len(data)}:"
            " the object is shorter than expected, or the connection was interrupted"
        )
    return data


def unquote_etag(etag: str | None) -> str:
    """Return an etag without the quotes and the `W/` prefix of HTTP."""
    return (etag or "").removeprefix("W/").strip('"')


@contextlib.contextmanager
def translate_errors(url: str, *more: type[Exception]) -> Iterator[None]:
    """Turn errors of stores (`OSError`, `ValueError`, `more`) into ours, which name `url`."""
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, *more)
    try:
        with explain_full_disk(url):
            yield
    except AttentError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise missing_error(url) from error
    except kinds as error:
        # Without the pages of debug output that obstore appends; `__cause__` keeps them.
        text = str(getattr(error, "strerror", None) or error).partition("\n\nDebug source")[0]
        reason = f"{url}: {' '.join(text.split())}"
        if url.startswith("s3://") and _ROLE_HOST in text:
            raise AccessDeniedError(
                f"{url}: no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. "
                "AWS_PROFILE and roles need `pip install 'attent-select[s3]'`. The role of this "
                f"machine could not be requested: {' '.join(text.split())}"
            ) from error
        if isinstance(error, PermissionError) or type(error).__name__ in _ACCESS_DENIED:
            hint = "The credentials are missing, invalid, or lack permission"
            raise AccessDeniedError(f"{reason}. {hint}") from error
        raise StorageError(reason) from error
    except BaseException as error:
        # A panic of a client in Rust is not an `Exception`.
        if not is_panic(error):
            raise
        raise StorageError(f"{url}: the storage client failed: {error}") from error


@contextlib.contextmanager
def explain_full_disk(url: str) -> Iterator[None]:
    """Turn errors of a full disk into one that says what to do; other errors pass through."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise NoSpaceError(
            f"{url} was not written: {os.strerror(error.errno).lower()}. Free some space there and"
            f" in {tempfile.gettempdir()}, where files are created first (set TMPDIR to change it),"
            " or raise the limit, then run the command again"
        ) from error
