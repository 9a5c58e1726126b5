"""Layouts of shards (formats and row groups): what each reads for a share of the rows. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalogs.lance_files.contents import Contents, StoredColumn
from catalogs.lance_files.estimate import File, plan_ranges
from catalogs.read_plan import Extent, coalesce_bounded
from catalogs.storage import ReadCost

# Rows and bytes of a row group by default, and smaller ones that `--row-group-samples` makes.
_GROUP_ROWS: Final = 1024
_GROUP_BYTES: Final = 8 << 20
_SMALL_GROUPS: Final = (100, 10)
# Headers and padding of the two members of a sample, on average.
_TAR_BYTES: Final = 2 * (512 + 256)
# Lance stores smaller values in chunks.
_CHUNKED_BYTES: Final = 256
_CHUNK_BYTES: Final = 4 << 10
_PAGE_BYTES: Final = 32 << 20
# Requests to a bucket at a time.
_PARALLEL: Final = 16
# A layout that takes this many times the least time is as good, and so are bytes.
_AS_GOOD: Final = 1.25
_MAX_ROWS: Final = 200_000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """What the reads depend on.

    Attributes:
        sample_bytes: of a sample, on average.
        shard_samples: samples of a shard, on average.
        cost: of a request to its storage.
        is_local: whether it is on a local disk.
    """

    sample_bytes: float
    shard_samples: int
    cost: ReadCost
    is_local: bool


@dataclass(frozen=True)
class LayoutReads:
    """The reads of one layout, for a shard.

    Attributes:
        name: the format, and the size of row groups.
        options: those of `attent ingest` that make it.
        amplification: bytes read ÷ bytes of the samples.
        seconds: with 16 requests at a time to a bucket, one to a local disk.
    """

    name: str
    options: str
    amplification: float
    seconds: float


def layout_reads(corpus: Corpus, *, share: float) -> list[LayoutReads]:
    """Return the reads of each layout for a share of the rows, which are scattered at random."""
    rows, num_rows = _rows(corpus, share)
    selected = len(rows) * corpus.sample_bytes
    return [
        LayoutReads(
            name,
            options,
            amplification=sum(size for _, size in ranges) / selected,
            seconds=corpus.cost.seconds(
                num_requests=len(ranges) / (1 if corpus.is_local else _PARALLEL),
                num_bytes=sum(size for _, size in ranges),
            ),
        )
        for name, options, ranges in _layouts(corpus, rows, num_rows)
    ]


def current_amplification(
    corpus: Corpus, *, share: float, shard_format: str, group_rows: int
) -> float | None:
    """Return bytes read ÷ bytes of the samples of a corpus as it is; None for other formats."""
    if shard_format == "parquet":
        rows, _ = _rows(corpus, share)
        num_bytes = sum(size for _, size in _parquet(corpus, rows, group_rows))
        return num_bytes / (len(rows) * corpus.sample_bytes)
    reads = layout_reads(corpus, share=share)
    return next((each.amplification for each in reads if each.name == shard_format), None)


def advise(corpus: Corpus, *, share: float, current: float | None = None) -> str:
    """Return which layout a share of the rows asks for, with the numbers.

    Args:
        corpus: what the reads depend on.
        share: of the rows that are read, scattered at random.
        current: read amplification of the corpus as it is, where it is known.
    """
    layouts = layout_reads(corpus, share=share)
    least = min(each.seconds for each in layouts)
    best = next(each for each in layouts if each.seconds <= _AS_GOOD * least)
    numbers = ", ".join(f"{each.amplification:.3g} ({each.name})" for each in layouts)
    text = (
        f"{share:.2%} of the rows, scattered, {corpus.sample_bytes:,.0f} bytes each; bytes read"
        f" for each byte selected: {numbers}"
    )
    if current is not None and current <= _AS_GOOD * best.amplification:
        return f"{text}; the layout of this corpus, {current:.3g}, is as good as any"
    return f"{text}; such a share asks for {best.name} (attent ingest {best.options})"


def _rows(corpus: Corpus, share: float) -> tuple[Rows, int]:
    """Return random rows of a shard, sorted, and how many it has."""
    num_rows = min(max(corpus.shard_samples, 1), _MAX_ROWS)
    count = min(max(round(share * num_rows), 1), num_rows)
    rows = np.sort(np.random.default_rng(0).choice(num_rows, count, replace=False))
    return rows.astype(np.int64), num_rows


def _layouts(
    corpus: Corpus, rows: Rows, num_rows: int
) -> Iterator[tuple[str, str, Sequence[Extent]]]:
    most = int(_GROUP_BYTES // max(corpus.sample_bytes, 1))
    default = max(min(_GROUP_ROWS, most, num_rows), 1)
    for group_rows in (default, *(size for size in _SMALL_GROUPS if size < default)):
        is_default = group_rows == default
        yield (
            f"parquet in row groups of {group_rows:,}",
            "--convert parquet" + ("" if is_default else f" --row-group-samples {group_rows}"),
            _parquet(corpus, rows, group_rows),
        )
    yield "lance", "--convert lance", _lance(corpus, rows, num_rows)
    yield "webdataset", "--convert webdataset", _webdataset(corpus, rows)


def _parquet(corpus: Corpus, rows: Rows, group_rows: int) -> list[Extent]:
    group_bytes = round(group_rows * corpus.sample_bytes)
    groups = np.unique(rows // group_rows).tolist()
    extents = [(group * group_bytes, group_bytes) for group in groups]
    return _merged(corpus, extents, num_samples=len(groups) * group_rows)


def _webdataset(corpus: Corpus, rows: Rows) -> list[Extent]:
    size = round(corpus.sample_bytes) + _TAR_BYTES
    return _merged(corpus, [(row * size, size) for row in rows.tolist()], num_samples=len(rows))


def _merged(corpus: Corpus, extents: Sequence[Extent], *, num_samples: int) -> list[Extent]:
    request_bytes = corpus.cost.request_bytes
    return coalesce_bounded(extents, request_bytes=request_bytes, num_samples=num_samples)


def _lance(corpus: Corpus, rows: Rows, num_rows: int) -> list[Extent]:
    num_bytes = round(num_rows * corpus.sample_bytes)
    column = StoredColumn(
        num_bytes,
        num_pages=-(-num_bytes // _PAGE_BYTES),
        chunk_bytes=_CHUNK_BYTES if corpus.sample_bytes < _CHUNKED_BYTES else 0,
        most_expanded=0,
    )
    contents = Contents(num_rows, pa.schema([("", pa.binary())]), {"": (column,)}, 0)
    file = File(num_bytes, corpus.cost.request_bytes, is_local=corpus.is_local)
    return plan_ranges(contents, [""], rows=rows, file=file)
