"""URLs and local paths: one spelling for each, and which are local. Pure."""

import os
from pathlib import Path
from urllib.parse import unquote

from attent_select.errors import InputError

_WITH_HOST = frozenset({"s3", "gs", "az", "abfs", "abfss", "http", "https", "hf", "ftp", "sftp"})


def is_local(url: str) -> bool:
    """Whether `url` is a path on this machine."""
    return "://" not in url or url.startswith("file://")


def normalise(url: str) -> str:
    """Return `url` as an absolute path or `scheme://…`, without a trailing slash.

    Raises:
        InputError: it is a `file://` URL of another host, or names no bucket.
    """
    if url.startswith("file://"):
        host, _, path = url.removeprefix("file://").partition("/")
        if host not in ("", "localhost"):
            raise InputError(f"{url} is a file of the host {host!r}: expected file:///path")
        url = "/" + unquote(path)
    if not is_local(url):
        scheme, mark, rest = url.partition("://")
        if scheme in _WITH_HOST and not rest.strip("/"):
            raise InputError(f"{url} names no bucket or server: expected {scheme}://NAME/…")
        return scheme + mark + rest.rstrip("/")
    return os.path.normpath(Path(url).expanduser().absolute())
