"""Storage in buckets of S3, Google Cloud and Azure through obstore: one client per bucket."""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import obstore
import obstore.store
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PreconditionError,
)

from catalogs.concurrency import DaemonPool
from catalogs.layout import join
from catalogs.storage import retry as retries
from catalogs.storage import s3_credentials
from catalogs.storage.endpoints import check_endpoints
from catalogs.storage.fsspec_files import FsspecFiles, is_set, s3_endpoint
from catalogs.storage.objects import (
    ObjectInfo,
    Range,
    Version,
    check_etag,
    check_length,
    translate_errors,
    unquote_etag,
)
from catalogs.storage.retry import retry

_log = logging.getLogger("attent.catalogs.storage")

SCHEMES: Final = ("s3", "gs", "az")

_CONCURRENCY = 16
# How late a store may list an object.
_LATE_SECONDS = 60.0
_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": timedelta(seconds=10),
    # Between two packets, and for a whole answer, which may be a shard of several GB.
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=20),
}
# Of other clients, whose pauses double as ours do; the time decides.
_MAX_RETRIES: Final = 30
# Our `retry` handles all stores alike.
_NO_RETRIES: Final[Any] = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}


def bucket_of(url: str) -> "ObjectStore":
    """Return the store of the bucket that contains `url`."""
    check_endpoints(os.environ)
    scheme, _, rest = url.partition("://")
    endpoint = s3_endpoint() if scheme == "s3" else ""
    return _bucket(f"{scheme}://{rest.partition('/')[0]}", endpoint, os.getpid())


class ObjectStore:
    """Storage in one bucket.

    Some servers answer a ranged request with 200 instead of 206, which obstore rejects. If this
    happens once, this and all later ranged requests go through fsspec.
    """

    def __init__(self, root: str, *, endpoint: str) -> None:
        self._root, self._endpoint = root, endpoint
        self.answers_ranges = True
        self._written = _Written()
        config: Any = {"endpoint": endpoint} if endpoint else {}
        if root.startswith("s3://") and is_set("AWS_REQUEST_PAYER"):
            config["request_payer"] = True
        provider = s3_credentials.provider() if root.startswith("s3://") else None
        self._credentials = provider
        credentials: Any = {} if provider is None else {"credential_provider": provider}
        options: Any = _OPTIONS | {"allow_http": endpoint.startswith("http://")}
        self._store: Any = obstore.store.from_url(
            root, config=config, client_options=options, retry_config=_NO_RETRIES, **credentials
        )

    def read(self, url: str, *, etag: str | None = None) -> bytes:
        with translate_errors(url, BaseError):
            return retry(lambda: self._get(url, {}, etag))

    def read_ranges(
        self, url: str, ranges: Sequence[Range], *, etag: str | None = None
    ) -> list[bytes]:
        with translate_errors(url, BaseError):
            if self.answers_ranges:
                try:
                    return self._ranges(url, ranges, etag)
                except BaseError as error:
                    if "NotPartial" not in str(error):
                        raise
                    self.answers_ranges = False
        return FsspecFiles().read_ranges(url, ranges, etag=etag)

    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        key = self._key(prefix)
        with translate_errors(prefix, BaseError):
            try:
                return retry(lambda: self._list(key))
            except BaseError as error:
                # obstore ends a listing at a key with `//`, which it cannot read either.
                if "empty path segment" not in str(error) or not self._root.startswith("s3://"):
                    raise
            return retry(lambda: self._list_without_double_slashes(key))

    def publish(self, url: str, data: bytes | Path) -> None:
        # One PUT, or a multipart upload of large data, which is visible once it is complete.
        with translate_errors(url, BaseError):
            retry(lambda: obstore.put(self._store, self._key(url), data))
        self._written.add(self._key(url))

    def delete(self, url: str) -> None:
        self._written.discard(self._key(url))
        with translate_errors(url, BaseError), contextlib.suppress(FileNotFoundError):
            retry(lambda: obstore.delete(self._store, self._key(url)))

    def read_version(self, url: str) -> tuple[bytes, Version]:
        """Read an object and its version."""

        def fetch() -> tuple[bytes, Version]:
            answer = obstore.get(self._store, self._key(url))
            return bytes(answer.bytes()), _version(answer.meta)

        with translate_errors(url, BaseError):
            return retry(fetch)

    def write_if(self, url: str, data: bytes, *, version: Version | None) -> Version | None:
        """Write over `version` only (None: only if there is no object); return the new version.

        Return None if the server refused. Some servers ignore the condition.

        Raises:
            StorageError: storage failed, or the server rejects conditional writes.
        """
        mode: Any = "create" if version is None else version
        with translate_errors(url, BaseError):
            try:
                done = retry(lambda: obstore.put(self._store, self._key(url), data, mode=mode))
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None
        return _version(done)

    def reader_options(self) -> dict[str, str] | None:
        """Return the options of this store for other clients; see `access.reader_options`."""
        if not self.answers_ranges:
            return None
        options = {name: f"{limit.total_seconds():.0f}s" for name, limit in _OPTIONS.items()}
        options |= {
            "allow_http": str(self._endpoint.startswith("http://")).lower(),
            "client_max_retries": str(_MAX_RETRIES),
            "client_retry_timeout": f"{retries.RETRY_SECONDS:.0f}",
        }
        if self._endpoint:
            options["aws_endpoint"] = self._endpoint
        if not self._root.startswith("s3://"):
            return options
        if is_set("AWS_REQUEST_PAYER"):
            options["aws_request_payer"] = "true"
        if is_set("AWS_SKIP_SIGNATURE"):
            options["aws_skip_signature"] = "true"
        if (provider := self._credentials) is not None:
            keys = provider()
            options["aws_access_key_id"] = keys["access_key_id"]
            options["aws_secret_access_key"] = keys["secret_access_key"]
            if keys["token"]:
                options["aws_session_token"] = keys["token"]
        return options

    def _list(self, key: str) -> list[ObjectInfo]:
        if key and (stored := self._head(key)):
            return [stored]
        pages = obstore.list(self._store, prefix=key or None)
        metas = (meta for page in pages for meta in page)
        # The empty marker object `folder/` is listed as `folder`, which does not exist.
        listed = [self._info(meta) for meta in metas if meta["size"] or self._head(meta["path"])]
        late = self._written.under(key) - {self._key(stored.url) for stored in listed}
        return listed + [stored for name in late if (stored := self._head(name))]

    def _list_without_double_slashes(self, key: str) -> list[ObjectInfo]:
        bucket = self._root.removeprefix("s3://")
        folder = f"{key.rstrip('/')}/" if key else ""
        objects, num_ignored = [], 0
        for name, num_bytes, etag in s3_credentials.list_keys(bucket, folder, s3_endpoint()):
            if "//" in name or name.startswith("/"):
                num_ignored += 1
            elif not name.endswith("/"):
                objects.append(ObjectInfo(join(self._root, name), num_bytes, unquote_etag(etag)))
        _log.warning("%s: ignored %d objects with `//` in their keys", self._root, num_ignored)
        return objects

    def _ranges(self, url: str, ranges: Sequence[Range], etag: str | None) -> list[bytes]:
        def fetch(extent: Range) -> bytes:
            offset, num_bytes = extent
            options = {"range": (offset, offset + num_bytes)}
            data = retry(lambda: self._get(url, options, etag))
            return check_length(url, data, extent)

        if len(ranges) == 1:
            return [fetch(ranges[0])]
        with _pool_lock:
            pool = _pool(os.getpid())
        answers = [pool.submit(fetch, extent) for extent in ranges]
        try:
            return [answer.result() for answer in answers]
        finally:
            for answer in answers:  # not yet started when another one failed
                answer.cancel()

    def _get(self, url: str, options: Any, etag: str | None) -> bytes:
        answer = obstore.get(self._store, self._key(url), options=options)
        check_etag(url, actual=self._info(answer.meta).etag, expected=etag)
        return bytes(answer.bytes())

    def _head(self, key: str) -> ObjectInfo | None:
        with contextlib.suppress(FileNotFoundError):
            return self._info(obstore.head(self._store, key))
        return None

    def _key(self, url: str) -> str:
        return url.removeprefix(self._root).lstrip("/")

    def _info(self, meta: Any) -> ObjectInfo:
        stamp = f"{meta['last_modified'].timestamp():.3f}-{meta['size']:x}"
        etag = unquote_etag(meta["e_tag"]) or stamp
        return ObjectInfo(join(self._root, meta["path"]), meta["size"], etag)


class _Written:
    """Keys that this process wrote a moment ago. Some stores list a new object late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # In the order of writing.
        self._times: dict[str, float] = {}

    def add(self, key: str) -> None:
        with self._lock:
            self._times.pop(key, None)
            self._times[key] = monotonic()
            while self._times[first := next(iter(self._times))] < monotonic() - _LATE_SECONDS:
                del self._times[first]

    def discard(self, key: str) -> None:
        with self._lock:
            self._times.pop(key, None)

    def under(self, folder: str) -> set[str]:
        with self._lock:
            return {key for key in self._times if key.startswith(f"{folder}/" if folder else "")}


def _version(answer: Any) -> Version:
    return {name: answer[name] for name in ("e_tag", "version") if answer[name] is not None}


# Both per process: neither clients nor threads survive a fork.
@functools.lru_cache(maxsize=64)
def _bucket(root: str, endpoint: str, _pid: int) -> ObjectStore:
    return ObjectStore(root, endpoint=endpoint)


# Threads may request the first ranges at the same time: they share one pool.
_pool_lock = threading.Lock()


@functools.lru_cache(maxsize=1)
def _pool(_pid: int) -> DaemonPool:
    return DaemonPool(_CONCURRENCY, name="attent-ranges")
