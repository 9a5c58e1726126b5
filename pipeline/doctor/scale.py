"""Model of growth: requests, memory, bytes and seconds of each stage, for any corpus. Pure.

Requests follow from the code, and were counted on an S3 server: `tests/integration/test_scale.py`.
Memory and seconds follow from `scale_constants.py`. Numbers are upper estimates where the layout of
a corpus would decide, and grow with shards and samples.
"""

from typing import Final

from catalogs.read_plan import LARGE_SAMPLE_BYTES, MAX_AMPLIFICATION
from pipeline.doctor import scale_constants as per
from pipeline.doctor.stage_cost import CorpusSize, Machines, Requests, StageCost

# Objects of a page of a listing; rows of a catalog, and of an index, that are fetched together.
_PAGE: Final = 1000
_CHUNK_ROWS: Final = 1 << 18
_INDEX_ROWS: Final = 1 << 24
# Bytes that a worker reads at a time, for scoring, for an annotation, and of a tar's headers.
_SCORE_BYTES, _ANNOTATE_BYTES, _HEADER_BYTES = 16 << 20, 8 << 20, 4 << 20
_READ_THREADS, _STREAM_THREADS = 2, 16
# Passes of the strategy soft over the losses, and files of which it first reads a few rows.
_PASSES, _PREVIEWED = 3, 128
# Memory of a rank: a shuffle block, and samples that were read and prepared ahead.
_BUFFER_BYTES, _READ_BYTES = 256 << 20, 16 << 20


# Requests of a stage: once, for each span, and for each part of the catalog, without those that
# depend on the numbers of rows and bytes.
_INGEST: Final = Requests(4, 4)
_SCORE, _SCORE_SPAN, _SCORE_PART = Requests(20, 14), Requests(3, 1, 2), Requests(5, 2)
_ANNOTATE, _ANNOTATE_SPAN, _ANNOTATE_PART = Requests(11, 6), Requests(8, 4, 3), Requests(7, 2)
_SELECT, _SELECT_PART = Requests(18, 11), Requests(6)
_STREAM: Final = Requests(6)
# Of a worker that begins: the manifest, the checkpoint's marker and its weights.
_WORKER: Final = Requests(3)


def ingest_cost(corpus: CorpusSize) -> StageCost:
    """Return the cost of listing and inspecting all shards, and of writing the manifest."""
    shards, cost = corpus.num_shards, corpus.read_cost
    headers = corpus.num_bytes // _HEADER_BYTES if corpus.has_members else 0
    of_shards = Requests(2, int(corpus.has_members)) * shards + Requests(headers)
    read_bytes = corpus.num_bytes if corpus.has_members else min(corpus.num_bytes, shards << 16)
    waiting = cost.seconds(num_requests=of_shards.reads, num_bytes=read_bytes)
    worker_seconds = waiting + shards * per.INSPECT_SECONDS
    return StageCost(
        "ingest",
        _INGEST + of_shards + Requests(0, shards // _PAGE),
        read_bytes=read_bytes,
        written_bytes=shards * per.MANIFEST_BYTES,
        tasks=shards,
        worker_seconds=worker_seconds,
        task_seconds=worker_seconds / shards,
        driver_seconds=shards * per.TASK_SECONDS,
        alone_seconds=shards * (per.INGEST_SHARD_SECONDS + per.MANIFEST_SHARD_SECONDS),
        driver_bytes=per.DRIVER_BYTES + shards * (per.INGEST_SHARD_BYTES + per.SPAN_BYTES),
        worker_bytes=per.WORKER_BYTES,
    )


def annotate_cost(
    corpus: CorpusSize,
    machines: Machines,
    *,
    span_samples: int = 20_000,
    part_samples: int = 2_000_000,
) -> StageCost:
    """Return the cost of one annotation whose kind reads every sample once."""
    spans = max(corpus.num_shards, -(-corpus.num_samples // span_samples))
    batches = spans + corpus.num_bytes // _ANNOTATE_BYTES
    requests = _ANNOTATE + _ANNOTATE_SPAN * spans + Requests(0, batches - spans)
    requests += _shard_reads(corpus, spans=spans, num_reads=batches)
    requests += _catalog_reads(corpus, _ANNOTATE_PART, part_samples, passes=2)
    return _span_cost(
        "annotate",
        corpus,
        requests,
        spans=spans,
        rows=corpus.num_samples,
        read_bytes=corpus.num_bytes,
        seconds=corpus.num_bytes / machines.annotated_bytes_per_second,
        part_samples=part_samples,
    )


def score_cost(
    corpus: CorpusSize,
    machines: Machines,
    *,
    scored: int | None = None,
    read_bytes: float | None = None,
    block_rows: int = 256,
    span_samples: int = 50_000,
    part_samples: int = 2_000_000,
    window_samples: int = 1024,
) -> StageCost:
    """Return the cost of measuring all losses, or those of `scored` candidates of a pool.

    Candidates are drawn in blocks of `block_rows`; `read_bytes` are those that are read for them.
    """
    is_full = scored is None
    rows = corpus.num_samples if scored is None else min(scored, corpus.num_samples)
    visited = corpus.num_shards if is_full else min(corpus.num_shards, -(-rows // block_rows))
    spans = max(visited, -(-rows // span_samples))
    read = corpus.num_bytes if read_bytes is None else read_bytes
    requests = _SCORE + (_SCORE_SPAN + Requests(0, 1)) * spans + Requests(0, rows // window_samples)
    requests += _shard_reads(corpus, spans=spans, num_reads=spans + read // _SCORE_BYTES)
    if is_full:
        requests += _catalog_reads(corpus, _SCORE_PART, part_samples, passes=2)
    else:
        # The rows of each span are read from the file of the candidates.
        requests += Requests(3) * spans
    return _span_cost(
        "score",
        corpus,
        requests,
        spans=spans,
        rows=rows,
        read_bytes=read,
        seconds=rows / machines.scored_per_second,
        part_samples=part_samples if is_full else 0,
    )


def _span_cost(
    name: str,
    corpus: CorpusSize,
    requests: Requests,
    *,
    spans: int,
    rows: int,
    read_bytes: float,
    seconds: float,
    part_samples: int,
) -> StageCost:
    """Return the cost of a stage of spans; without `part_samples` they are merged by the driver.

    Reading continues beside computing; journals and span files do not.
    """
    shards, wait = corpus.num_shards, corpus.read_cost.latency_seconds
    reading = read_bytes / corpus.read_cost.bytes_per_second / _READ_THREADS
    num_requests = (_SCORE_SPAN.reads + _SCORE_SPAN.writes + _SCORE_SPAN.deletes + 1) * spans
    row_seconds = rows * (per.SPAN_ROW_SECONDS + per.MERGE_ROW_SECONDS)
    worker_seconds = max(seconds, reading) + num_requests * wait + row_seconds
    of_shards = per.MANIFEST_SHARD_SECONDS
    memory = 0.0 + per.DRIVER_BYTES + spans * per.SPAN_BYTES + shards * per.MANIFEST_SHARD_BYTES
    if part_samples:
        of_shards += per.SNAPSHOT_SHARD_SECONDS
        memory += shards * per.SNAPSHOT_SHARD_BYTES
    memory += 0.0 if part_samples else rows * per.CANDIDATE_BYTES
    drawing = 0.0 if part_samples else rows * per.CANDIDATE_SECONDS
    return StageCost(
        name,
        requests,
        read_bytes=read_bytes + rows * (per.SPAN_ROW_BYTES + 2 * per.PART_ROW_BYTES),
        written_bytes=rows * (per.SPAN_ROW_BYTES + per.PART_ROW_BYTES)
        + spans * per.PLAN_BYTES
        + shards * per.SNAPSHOT_BYTES,
        tasks=spans,
        worker_seconds=worker_seconds,
        task_seconds=worker_seconds / spans,
        driver_seconds=spans * (per.TASK_SECONDS + per.PLAN_SPAN_SECONDS),
        alone_seconds=shards * of_shards + rows * per.CLOSING_ROW_SECONDS + drawing,
        driver_bytes=memory,
        worker_bytes=per.WORKER_BYTES
        + shards * per.MANIFEST_SHARD_BYTES
        + min(part_samples, rows) * per.MERGE_ROW_BYTES,
    )


def _shard_reads(corpus: CorpusSize, *, spans: int, num_reads: float) -> Requests:
    """Return the requests for the samples of spans, with a footer or member index for each."""
    footers = 0 if corpus.is_small_sharded and not corpus.has_members else spans
    return Requests(num_reads + footers)


def _catalog_reads(
    corpus: CorpusSize, of_part: Requests, part_samples: int, *, passes: int
) -> Requests:
    """Return the requests for writing the parts of a catalog, and for passes over them."""
    parts = corpus.num_parts(part_samples)
    return of_part * parts + Requests(passes * (parts + corpus.num_samples // _CHUNK_ROWS))


def select_cost(
    corpus: CorpusSize, *, rows: int, selected: int, part_samples: int = 2_000_000
) -> StageCost:
    """Return the cost of selecting from losses of `rows` samples in one process, by soft."""
    parts = min(corpus.num_shards, -(-rows // part_samples))
    chunks = _PASSES * (parts + rows // _CHUNK_ROWS) + min(parts, _PREVIEWED)
    shards = corpus.num_shards
    return StageCost(
        "select",
        _SELECT + _SELECT_PART * parts + Requests(chunks),
        read_bytes=_PASSES * rows * per.PART_ROW_BYTES,
        written_bytes=selected * per.INDEX_ROW_BYTES,
        alone_seconds=rows * per.SELECT_ROW_SECONDS
        + shards * (per.MANIFEST_SHARD_SECONDS + per.READ_SNAPSHOT_SHARD_SECONDS),
        driver_bytes=per.SELECT_BYTES
        + shards * (per.MANIFEST_SHARD_BYTES + per.SNAPSHOT_SHARD_BYTES),
    )


def train_cost(
    corpus: CorpusSize,
    machines: Machines,
    *,
    selected: int,
    epochs: int = 1,
    read_bytes: float | None = None,
) -> StageCost:
    """Return the cost of streaming the rows of an index and training on them.

    They are taken to lie at random; `read_bytes` are those of all epochs.
    """
    ranges, once = _ranges(corpus, selected)
    read = epochs * once if read_bytes is None else read_bytes
    trained = selected * epochs
    requests = _STREAM + Requests(selected // _INDEX_ROWS + epochs * ranges)
    waiting = corpus.read_cost.seconds(num_requests=requests.reads, num_bytes=read)
    return StageCost(
        "train",
        requests,
        read_bytes=read,
        tasks=0,
        worker_seconds=max(waiting / _STREAM_THREADS, trained / machines.trained_per_second),
        alone_seconds=selected * per.RANK_ROW_SECONDS
        + corpus.num_shards * per.MANIFEST_SHARD_SECONDS,
        driver_bytes=per.WORKER_BYTES
        + _BUFFER_BYTES
        + selected * per.RANK_ROW_BYTES
        + corpus.num_shards * per.MANIFEST_SHARD_BYTES,
    )


def _ranges(corpus: CorpusSize, selected: int) -> tuple[float, float]:
    """Return the ranges that an epoch requests, footers included, and their bytes without gaps."""
    share = min(selected / corpus.num_samples, 1.0)
    rows = min(corpus.group_rows, corpus.shard_rows)
    group_bytes = max(rows * corpus.sample_bytes, 1.0)
    touched = 1 - (1 - share) ** max(1.0, rows)
    visited = corpus.num_shards * (1 - (1 - share) ** max(1.0, corpus.shard_rows))
    num_bytes = corpus.num_bytes * touched
    reads = visited + num_bytes // _READ_BYTES
    if corpus.is_small_sharded and not corpus.has_members:
        return reads, num_bytes
    joined = _joined_gap(corpus, group_bytes, touched)
    ranges = num_bytes / group_bytes * (1 - touched) ** (joined + 1)
    return visited + max(reads, ranges), num_bytes


def _joined_gap(corpus: CorpusSize, group_bytes: float, touched: float) -> int:
    """Return the longest gap, in row groups or samples, that is read along (`catalogs.read_plan`).

    The gaps that are read are at most a fifth of the bytes where samples are large.
    """
    longest = int(corpus.read_cost.request_bytes // group_bytes)
    if corpus.sample_bytes < LARGE_SAMPLE_BYTES:
        return longest
    gaps, allowed = 0.0, MAX_AMPLIFICATION - 1
    for length in range(1, longest + 1):
        gaps += length * touched * (1 - touched) ** length
        if gaps > allowed:
            return length - 1
    return longest


def start_requests(cost: StageCost, *, workers: int) -> Requests:
    """Return the requests of workers that begin: those without a task ask for nothing."""
    return _WORKER * min(workers, cost.tasks)
