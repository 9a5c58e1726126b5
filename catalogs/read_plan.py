"""Read plan: which byte ranges of a shard to request for a set of rows. Pure.

A request costs as much as reading `request_bytes` more (latency × bandwidth): two extents closer
than that are cheaper as one range. This greedy merge minimises the cost in bytes; reading a whole
shard is its extreme case. For large samples, read amplification is bounded as well, because
bandwidth is shared and requests are few.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attent_select.errors import InputError

# Read amplification is bounded for samples of this average size or more.
LARGE_SAMPLE_BYTES = 32 << 10
MAX_AMPLIFICATION = 1.2
# Share of a shard's bytes that counts as all of it: without footer or padding.
_WHOLE_SHARE = 0.9

# (offset, num_bytes) within a shard.
Extent = tuple[int, int]


def coalesce(extents: Sequence[Extent], *, request_bytes: int) -> list[Extent]:
    """Return the cheapest ranges that cover `extents` (in any order), sorted and disjoint."""
    ranges: list[Extent] = []
    for offset, num_bytes in sorted(extents):
        if num_bytes == 0:
            continue
        if ranges:
            start, length = ranges[-1]
            if offset - (start + length) <= request_bytes:
                ranges[-1] = (start, max(length, offset + num_bytes - start))
                continue
        ranges.append((offset, num_bytes))
    return ranges


def coalesce_bounded(
    extents: Sequence[Extent], *, request_bytes: int, num_samples: int
) -> list[Extent]:
    """Coalesce `extents`; bound the read amplification of large samples.

    For samples of `LARGE_SAMPLE_BYTES` or more on average, only the smallest gaps are read, at most
    a fifth of the bytes of the extents.
    """
    sorted_extents = np.array([extent for extent in extents if extent[1]], np.int64).reshape(-1, 2)
    sorted_extents = sorted_extents[np.argsort(sorted_extents[:, 0])]
    total = int(sorted_extents[:, 1].sum())
    if total >= LARGE_SAMPLE_BYTES * num_samples:
        gaps = np.sort(np.maximum(sorted_extents[1:, 0] - sorted_extents[:-1].sum(axis=1), 0))
        num_gaps = int(np.searchsorted(np.cumsum(gaps), total * (MAX_AMPLIFICATION - 1), "right"))
        if num_gaps < len(gaps):
            request_bytes = min(request_bytes, int(gaps[num_gaps]) - 1)
    return coalesce(extents, request_bytes=request_bytes)


@dataclass(frozen=True)
class ReadPlan:
    """Requests for some samples of one shard.

    Attributes:
        method: `whole file`, `ranges` or `row groups`.
        ranges: the requests.
        bytes_selected: extent of the samples in the shard.
        decoded_bytes: approximate memory of the samples when they are read.
    """

    method: str
    ranges: list[Extent]
    bytes_selected: int
    decoded_bytes: int

    @property
    def num_bytes(self) -> int:
        """Number of requested bytes."""
        return sum(size for _, size in self.ranges)


def read_method(ranges: Sequence[Extent], *, shard_bytes: int, otherwise: str) -> str:
    """Return `whole file` for one range over nearly the whole shard, else `otherwise`."""
    is_whole = len(ranges) == 1 and ranges[0][1] >= _WHOLE_SHARE * shard_bytes
    return "whole file" if is_whole else otherwise


@dataclass(frozen=True)
class FetchedRanges:
    """Ranges of an object and their bytes; `cut` returns parts of them without a copy."""

    ranges: Sequence[Extent]
    data: Sequence[bytes]

    def cut(self, offset: int, num_bytes: int) -> memoryview:
        """Return the bytes of an extent, which must lie within one of the ranges."""
        if num_bytes == 0:
            return memoryview(b"")
        position = bisect_right(self.ranges, offset, key=lambda extent: extent[0]) - 1
        start = offset - self.ranges[position][0] if position >= 0 else -1
        assert start >= 0, "the extent was not fetched"
        view = memoryview(self.data[position])[start : start + num_bytes]
        assert len(view) == num_bytes, "the extent was not fetched"
        return view

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.data))


def check_rows(rows: Sequence[int], *, num_samples: int, url: str) -> npt.NDArray[np.int64]:
    """Return `rows` as int64[n].

    Raises:
        InputError: they are not strictly increasing, or not in the shard.
    """
    array = np.asarray(rows, dtype=np.int64)
    if len(array) == 0:
        return array
    if np.any(np.diff(array) <= 0):
        raise InputError(
            f"rows of {url} must be strictly increasing: sort them and remove duplicates"
        )
    if array[0] < 0 or array[-1] >= num_samples:
        outside = int(array[0] if array[0] < 0 else array[-1])
        raise InputError(
            f"{url} has no row {outside}: expected 0 to {num_samples - 1}. Was the index or the"
            " catalog made for another corpus?"
        )
    return array


def check_columns(columns: Sequence[str], *, known: Sequence[str], url: str) -> None:
    """Raise `InputError` that names the first column which the shard lacks."""
    for column in columns:
        if column not in known:
            raise InputError(
                f"{url} has no column {column!r}: it has {', '.join(sorted(known))}. Correct the"
                " column names of the task"
            )
