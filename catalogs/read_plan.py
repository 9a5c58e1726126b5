"""Rows → requests: which bytes of a shard to ask for. Pure.

Coalescing extents into ranges, and finding the bytes again in what came back. Not here: reading
(`catalogs/storage/`) or where a sample lies in its shard (`catalogs/formats/`).

A request costs as much as reading `request_bytes` more (latency × bandwidth): two extents
closer than that are cheaper as one range. As a cost in bytes this greedy merge is optimal, and
reading a whole shard is merely its extreme case. Where samples are large, what is read in vain
is bounded as well: bandwidth is shared, and a request for a large sample is well spent.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attent_select.errors import InputError

# Samples of this size or more, on average, are read with at most so many times their bytes.
LARGE_SAMPLE_BYTES = 32 << 10
MAX_AMPLIFICATION = 1.2
# Of a shard's bytes, without its footer or the last padding.
_WHOLE_SHARE = 0.9

# (offset, num_bytes) within a shard.
Extent = tuple[int, int]


def coalesce(extents: Sequence[Extent], *, request_bytes: int) -> list[Extent]:
    """The fewest-cost ranges that cover `extents` (in any order), sorted and disjoint."""
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
    """`coalesce`, but for samples of `LARGE_SAMPLE_BYTES` or more on average the gaps read in vain,
    smallest first, are at most a fifth of what is wanted.
    """
    wanted = np.array([extent for extent in extents if extent[1]], np.int64).reshape(-1, 2)
    wanted = wanted[np.argsort(wanted[:, 0])]
    total = int(wanted[:, 1].sum())
    if total >= LARGE_SAMPLE_BYTES * num_samples:
        gaps = np.sort(np.maximum(wanted[1:, 0] - wanted[:-1].sum(axis=1), 0))
        fitting = int(np.searchsorted(np.cumsum(gaps), total * (MAX_AMPLIFICATION - 1), "right"))
        if fitting < len(gaps):
            request_bytes = min(request_bytes, int(gaps[fitting]) - 1)
    return coalesce(extents, request_bytes=request_bytes)


@dataclass(frozen=True)
class ReadPlan:
    """What reading some samples of one shard takes.

    `method` is `whole file`, `ranges` or `row groups`; `ranges` are what is requested;
    `bytes_selected` is the extent of the samples in the shard; `decoded_bytes` about the memory
    that reading them takes.
    """

    method: str
    ranges: list[Extent]
    bytes_selected: int
    decoded_bytes: int

    @property
    def num_bytes(self) -> int:
        """That are requested."""
        return sum(size for _, size in self.ranges)


def read_method(ranges: Sequence[Extent], *, shard_bytes: int, otherwise: str) -> str:
    """`whole file` for one range over nearly all of the shard."""
    is_whole = len(ranges) == 1 and ranges[0][1] >= _WHOLE_SHARE * shard_bytes
    return "whole file" if is_whole else otherwise


@dataclass(frozen=True)
class FetchedRanges:
    """The ranges of an object that were read; `cut` finds bytes in them without copying."""

    ranges: Sequence[Extent]
    data: Sequence[bytes]

    def cut(self, offset: int, num_bytes: int) -> memoryview:
        """The bytes of an extent that lies within one of the ranges."""
        if num_bytes == 0:
            return memoryview(b"")
        position = bisect_right(self.ranges, offset, key=lambda extent: extent[0]) - 1
        start = offset - self.ranges[position][0] if position >= 0 else -1
        piece = memoryview(self.data[position])[start : start + num_bytes] if start >= 0 else b""
        assert len(piece) == num_bytes, "an extent was not planned for"
        return memoryview(piece)

    @property
    def num_bytes(self) -> int:
        return sum(len(piece) for piece in self.data)


def check_rows(rows: Sequence[int], *, num_samples: int, url: str) -> npt.NDArray[np.int64]:
    """`rows` as int64[n].

    Raises:
        InputError: they are not strictly increasing, or not in the shard.
    """
    wanted = np.asarray(rows, dtype=np.int64)
    if len(wanted) == 0:
        return wanted
    if np.any(np.diff(wanted) <= 0):
        raise InputError(
            f"rows of {url} must be strictly increasing: expected them sorted, once each"
        )
    if wanted[0] < 0 or wanted[-1] >= num_samples:
        outside = int(wanted[0] if wanted[0] < 0 else wanted[-1])
        raise InputError(
            f"{url} has no row {outside}: expected 0 to {num_samples - 1}. Was the index or the"
            " catalog made for another corpus?"
        )
    return wanted


def check_columns(columns: Sequence[str], *, known: Sequence[str], url: str) -> None:
    """Raises `InputError` naming the first column that the shard lacks."""
    for column in columns:
        if column not in known:
            raise InputError(
                f"{url} has no column {column!r}: it has {', '.join(sorted(known))}. Correct the"
                " column names of the task"
            )
