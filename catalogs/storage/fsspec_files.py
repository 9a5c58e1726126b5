"""Storage at any URL that fsspec supports: `memory://`, `hf://`, `http://` and others.

Also reads ranges from S3 servers whose answers obstore rejects. A driver's `pipe_file` and
`put_file` are trusted to be atomic, as they are on object stores. Never open a remote file for
writing: closing it after an exception publishes half of it.
"""

import contextlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attent_select.errors import InputError, StorageError
from catalogs.concurrency import ordered_map
from catalogs.layout import join
from catalogs.storage.objects import (
    ObjectInfo,
    Range,
    check_etag,
    check_length,
    translate_errors,
    unquote_etag,
)
from catalogs.storage.retry import retry

# What drivers call the identifier of an object's content, best first. `blob_id` and `xet_hash` are
# those of the Hugging Face hub, `sha` that of GitHub, `hex` of git, `CRC` of zip files.
_ETAGS = ("ETag", "etag", "md5", "checksum", "blob_id", "xet_hash", "oid", "sha256", "sha", "hex")
_MORE_ETAGS = (
    "md5Hash",
    "content_md5",
    "content_hash",
    "crc32c",
    "generation",
    "version_id",
    "CRC",
)
# The time of the last change: WebHDFS, Drive, OneDrive, Dropbox and FTP differ.
_TIMES = ("mtime", "LastModified", "Last-Modified", "modified", "created", "modificationTime")
_MORE_TIMES = ("modifiedTime", "lastModifiedDateTime", "server_modified", "last_modified", "modify")
# In HTTP only where there is neither of them.
_DIGESTS = ("Content-MD5", "Digest")
_NUM_THREADS = 8
_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}


def s3_endpoint() -> str:
    """Return the S3 endpoint that the environment names; empty for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def is_set(name: str) -> bool:
    """Whether a variable of the environment is true; `requester` is a value of AWS's own tools."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "requester")


class FsspecFiles:
    """Storage through fsspec drivers."""

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        with _translate_errors(url):
            files, path = _driver(url)
            _check_etag(files, url, path, etag)
            return retry(lambda: bytes(files.cat_file(path)))

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        with _translate_errors(url):
            files, path = _driver(url)
            _check_etag(files, url, path, etag)
            starts = [offset for offset, _ in ranges]
            ends = [offset + num_bytes for offset, num_bytes in ranges]
            answers = _cat_ranges(files, path, starts, ends, is_hub=_is_hub(url))
            pairs = zip(answers, ranges, strict=True)
            return [check_length(url, _slice(data, extent), extent) for data, extent in pairs]

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        with _translate_errors(prefix):
            files, path = _driver(prefix)
            try:
                detail = retry(lambda: _current(files, path, prefix).info(path))
            except FileNotFoundError:
                return []
            if detail["type"] != "directory":
                return [_info(prefix, detail)]
            details = retry(lambda: files.find(path, detail=True)).items()
            return [_info(_url_of(name, path, prefix), detail) for name, detail in details]

    def publish(self, url: str, data: bytes | Path) -> None:
        with _translate_errors(url):
            files, path = _driver(url)
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            if isinstance(data, Path):
                retry(lambda: files.put_file(str(data), path))
            else:
                retry(lambda: files.pipe_file(path, data))

    def delete(self, url: str) -> None:
        with _translate_errors(url), contextlib.suppress(FileNotFoundError):
            files, path = _driver(url)
            retry(lambda: files.rm_file(path))


def _translate_errors(url: str) -> contextlib.AbstractContextManager[None]:
    # Each driver raises the errors of its client library.
    return translate_errors(url, Exception)


def _driver(url: str) -> tuple[Any, str]:
    # No cached listings: another process may have written in the meantime.
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith("s3://"):
        # Explicit, because fsspec caches clients by their options, not by the environment.
        options |= {"endpoint_url": s3_endpoint() or None, "config_kwargs": _TIMEOUTS}
        # As obstore reads them.
        options |= {"anon": is_set("AWS_SKIP_SIGNATURE")}
        options |= {"requester_pays": is_set("AWS_REQUEST_PAYER")}
    try:
        import fsspec  # here, because most commands start without it

        files, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise InputError(f"{url} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise InputError(f"{url} is not a URL of a known kind of storage: {error}") from error
    return files, path


def _is_hub(url: str) -> bool:
    return url.startswith("hf://")


def _current(files: Any, path: str, url: str) -> Any:
    """Return the driver for an answer of now: that of the hub keeps listings nevertheless.

    (Its `refresh` leaves out the id of a file.)
    """
    if _is_hub(url):
        files.invalidate_cache(path)
    return files


def _cat_ranges(
    files: Any, path: str, starts: Sequence[int], ends: Sequence[int], *, is_hub: bool
) -> list[bytes]:
    if not is_hub:
        return list(
            retry(lambda: files.cat_ranges([path] * len(starts), starts, ends, on_error="raise"))
        )

    # One after the other, its `cat_ranges` reads 5 MiB more than every range.
    def read(extent: tuple[int, int]) -> bytes:
        return bytes(retry(lambda: files.cat_file(path, *extent, cache_type="none")))

    return list(ordered_map(read, zip(starts, ends, strict=True), num_threads=_NUM_THREADS))


def _url_of(name: str, path: str, prefix: str) -> str:
    """Return the URL of a listed name; drivers omit scheme and host in different ways."""
    below = name.removeprefix(path.rstrip("/")).strip("/")
    return join(prefix, below) if below else prefix


def _info(url: str, detail: dict[str, Any]) -> ObjectInfo:
    if detail.get("size") is None:
        raise StorageError(
            f"{url}: the server does not report its size, which is required to read it"
        )
    size = int(detail["size"])
    return ObjectInfo(url, size, _etag(url, detail, size))


def _etag(url: str, detail: dict[str, Any], size: int) -> str:
    for name in (*_ETAGS, *_MORE_ETAGS):
        if (etag := detail.get(name)) not in (None, ""):  # a checksum may be 0
            return unquote_etag(str(etag))
    for name in (*_TIMES, *_MORE_TIMES):
        stamp = detail.get(name)
        if isinstance(stamp, str) and stamp:
            return f"{stamp}-{size:x}"
        if isinstance(stamp, datetime):
            # Without a zone it is UTC: the same on machines of every zone.
            zoned = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
            return f"{zoned.timestamp():.6f}-{size:x}"
        if isinstance(stamp, int | float):
            return f"{float(stamp):.6f}-{size:x}"
    for name in _DIGESTS:
        if digest := detail.get(name):
            return str(digest)
    raise StorageError(
        f"{url}: the driver reports neither an etag nor a time of change, so a replaced file would"
        " go unnoticed. Copy the files to a local folder or a bucket, and use that URL"
    )


def _slice(data: bytes, extent: Range) -> bytes:
    # Simple web servers ignore ranges and answer with the whole file.
    offset, num_bytes = extent
    return bytes(data if len(data) <= num_bytes else data[offset : offset + num_bytes])


def _check_etag(files: Any, url: str, path: str, etag: str | None) -> None:
    if etag is not None:
        detail = retry(lambda: _current(files, path, url).info(path))
        check_etag(url, actual=_info(url, detail).etag, expected=etag)
