"""Memory allocator of a process that computes: keep freed memory instead of returning it at once.

Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536, so that they return freed memory at once. A
model on a CPU allocates and frees the same few MiB for each layer of each batch: returning them and
fetching them again, page by page, takes a third of the time of scoring (docs/scoring.md). A driver
returns memory later, but counting n-grams took it twice as long, too.
"""

import ctypes
import sys
from functools import lru_cache

# glibc's mallopt(3): allocations below M_MMAP_THRESHOLD (at most 32 MiB) come from the heap, and up
# to M_TRIM_THRESHOLD of free memory at its end is kept.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BYTES = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 256 << 20}


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB of freed memory; return False without glibc."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, size) for name, size in _BYTES.items())
