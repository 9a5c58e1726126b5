"""Compressed tar files: they can only be read as a whole, and are kept in memory for a while."""

from typing import Final

import pyarrow as pa

from attent_select.errors import InputError
from catalogs import storage
from catalogs.storage.objects import ObjectInfo
from catalogs.tables.byte_cache import BoundedCache

_CODECS: Final = {".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd"}
SUFFIXES: Final = tuple(_CODECS)
# A few kB can decompress to any size.
_MAX_BYTES = 8 << 30
_CHUNK_BYTES = 1 << 24

_contents: BoundedCache[bytes] = BoundedCache(max_bytes=1 << 30)


def is_compressed(url: str) -> bool:
    """Whether the name of a tar file says that it is compressed."""
    return _codec(url) is not None


def read_decompressed(stored: ObjectInfo) -> bytes:
    """Read and decompress a whole tar file; recent ones are kept.

    Raises:
        InputError: it is damaged, or too large.
    """
    return _contents.get_or_load(
        (stored.url, stored.etag), lambda: _decompress(stored), size_of=len
    )


def _decompress(stored: ObjectInfo) -> bytes:
    data = storage.read(stored.url, etag=stored.etag)
    chunks, num_bytes = list[pa.Buffer](), 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), _codec(stored.url)) as stream:
            # A `read` that fails never frees its chunk.
            while chunk := stream.read_buffer(_CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes > _MAX_BYTES:
                    raise InputError(
                        f"{stored.url} decompresses to more than {_MAX_BYTES} bytes: write smaller"
                        " shards, or plain tar files"
                    )
                chunks.append(chunk)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{stored.url} cannot be decompressed: {error}. It may be truncated; copy it again"
        ) from error
    return b"".join(chunks)


def _codec(url: str) -> str | None:
    path = url.lower()
    return next((codec for suffix, codec in _CODECS.items() if path.endswith(suffix)), None)
