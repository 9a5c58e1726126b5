"""Limits of the design: what grows, where it ends, and what would have to change. Pure."""

from dataclasses import dataclass
from typing import Final

from pipeline.doctor import scale_constants as per
from pipeline.doctor.prices import Prices

_GIB: Final = 1 << 30
# What a machine is assumed to spare, for a process that is not a worker and for one that is.
DRIVER_BYTES, RANK_BYTES = 4 * _GIB, 16 * _GIB
SPAN_SECONDS, WINDOW_SAMPLES, PART_SAMPLES = 30.0, 1024, 2_000_000


@dataclass(frozen=True)
class Limit:
    """A limit of the design.

    Attributes:
        name: what is limited.
        unit: what it grows with.
        each: what one more unit takes, in words.
        most: units at which the limit is reached.
        bound: the limit in words.
        change: what would have to change.
    """

    name: str
    unit: str
    each: str
    most: float
    bound: str
    change: str


def limits(prices: Prices) -> list[Limit]:
    """Return the limits, those of the driver first."""
    return [*_of_driver(), *_of_storage(prices), *_of_rows(), *_of_passes()]


def _of_driver() -> list[Limit]:
    manifest = per.MANIFEST_SHARD_BYTES + per.SNAPSHOT_SHARD_BYTES
    return [
        Limit(
            "manifest and snapshot in the driver's memory",
            "shards",
            f"{manifest} bytes",
            DRIVER_BYTES / manifest,
            "4 GiB",
            "publish a snapshot in pieces, from columns instead of an object for each shard",
        ),
        Limit(
            "manifest in the memory of `attent ingest`",
            "shards",
            f"{per.INGEST_SHARD_BYTES + per.SPAN_BYTES} bytes",
            DRIVER_BYTES / (per.INGEST_SHARD_BYTES + per.SPAN_BYTES),
            "4 GiB",
            "keep inspections as columns; `--append` in several calls works today",
        ),
        Limit(
            "plan of a round in the driver's memory",
            "spans",
            f"{per.SPAN_BYTES} bytes",
            DRIVER_BYTES / per.SPAN_BYTES,
            "4 GiB",
            "a larger `scoring.span_samples`; then span tasks made when they are submitted",
        ),
        Limit(
            "spans that a driver hands out",
            "workers with spans of 30 s",
            f"{per.TASK_SECONDS * 1000:.1f} ms a span",
            SPAN_SECONDS / per.TASK_SECONDS,
            "one core",
            "longer spans; then several spans in a task, or several drivers",
        ),
    ]


def _of_storage(prices: Prices) -> list[Limit]:
    per_second = prices.writes_per_second
    return [
        Limit(
            "journals and span files below one prefix",
            "samples scored a second, by all workers",
            f"1/{WINDOW_SAMPLES} of a PUT",
            per_second * WINDOW_SAMPLES,
            f"{per_second:,.0f} PUT a second",
            "a larger `scoring.window_samples`; then a journal by time instead of by window",
        ),
        Limit(
            "snapshots that merging reads, one for each part, after the first round",
            "samples, with a shard for every 100,000",
            "squares",
            _merge_limit(),
            "an hour of 100 workers",
            "read the row groups of a snapshot that a part needs",
        ),
    ]


def _merge_limit() -> float:
    """Return the samples at which reading a snapshot for each part takes 100 worker hours."""
    # parts × shards × seconds of a shard, with parts = n / PART_SAMPLES and shards = n / 100,000.
    seconds = per.READ_SNAPSHOT_SHARD_SECONDS
    return float((100 * 3600 / seconds * PART_SAMPLES * 100_000) ** 0.5)


def _of_rows() -> list[Limit]:
    return [
        Limit(
            "rows of an index in the memory of a rank",
            "selected samples",
            f"{per.RANK_ROW_BYTES} bytes",
            RANK_BYTES / per.RANK_ROW_BYTES,
            "16 GiB",
            "more rounds, each with a smaller index; then an index that is read block by block",
        ),
        Limit(
            "candidates of a round in the driver's memory",
            "candidates",
            f"{per.CANDIDATE_BYTES} bytes",
            DRIVER_BYTES / per.CANDIDATE_BYTES,
            "4 GiB",
            "more rounds, each with a smaller pool; then a draw that is written block by block",
        ),
    ]


def _of_passes() -> list[Limit]:
    return [
        Limit(
            "statuses and digest of a scored round, in the driver alone",
            "samples",
            f"{per.CLOSING_ROW_SECONDS * 1e6:.2f} µs",
            3600 / per.CLOSING_ROW_SECONDS,
            "an hour",
            "compute both on the workers, part by part",
        ),
        Limit(
            "selection in one process",
            "samples",
            f"{per.SELECT_ROW_SECONDS * 1e9:.0f} ns",
            3600 / per.SELECT_ROW_SECONDS,
            "an hour",
            "`attent select --scheduler`; the rounds of a run would have to do the same",
        ),
        Limit(
            "numbers of shards, and of rows of a shard",
            "shards, or rows",
            "u32",
            float(1 << 32),
            "4 bytes",
            "another schema, of which all files at rest have the version",
        ),
    ]
