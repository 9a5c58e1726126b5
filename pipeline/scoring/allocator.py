"""How the C library of a worker treats memory that tensors no longer need.

Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536, so that they give freed memory back at once.
A model on a CPU allocates and frees the same few MiB for each layer of each batch: given back and
fetched anew, page by page, they cost a third of the time of scoring (docs/scoring.md).
"""

import ctypes
import sys
from functools import lru_cache

# glibc's mallopt(3): what is smaller than the one comes from the heap, and of the heap's end as
# much as the other stays with the process. 32 MiB is the most that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BYTES = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 256 << 20}


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Lets this process keep up to 256 MiB of freed memory; False where its C library is not
    glibc.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, size) for name, size in _BYTES.items())
