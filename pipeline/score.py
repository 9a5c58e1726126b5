"""Measures the loss of every sample with one checkpoint, on the cluster, into the loss catalog.

Here: spans → span files (workers) → parts (workers) → the snapshot that commits them (driver). Not
here: how a loss is computed (`trainers/scorer.py`), which rows a span has and how it is named
(`spans.py`), the files (`catalogs/losses.py`). Killed at any moment, it redoes only unfinished spans.
"""

import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import polars as pl

from attent_select.errors import InputError
from attent_select.schema import LOSSES, MEASURED_STEP, ORIGIN, ROW, SCORED, SHARD_ID, STATUS, VISITS
from catalogs import Corpus, LossCatalog, storage
from catalogs.corpus import read_shard
from catalogs.layout import Layout
from catalogs.losses import PartSummary, Span
from catalogs.shard_format import Sample, Shard
from pipeline import spans
from pipeline.cluster import Client, run_tasks
from pipeline.console import progress
from pipeline.settings import RunConfig, ScoringSettings

if TYPE_CHECKING:
    import torch

    from trainers.checkpoint import Checkpoint

_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class ScoreResult:
    """What scoring did. `failed` counts the samples of the snapshot without a loss, by status."""

    scored: int
    skipped: int
    failed: dict[str, int]
    samples_per_second: float
    seconds: float
    snapshot: str
    catalog_digest: str


@dataclass(frozen=True)
class Measurement:
    """Everything that a loss depends on but the sample, the same for all spans of a round."""

    run: str
    task: Any
    model: dict[str, Any]
    checkpoint: "Checkpoint"
    settings: ScoringSettings
    torch_threads: int

    @property
    def catalog(self) -> LossCatalog:
        return LossCatalog(self.run, carry=self.settings.carry_schema)


@dataclass(frozen=True)
class SpanTask:
    """One future: the losses of one span."""

    shard: Shard
    span: Span
    digest: str
    measurement: Measurement

    def __str__(self) -> str:
        last = self.span.first_row + self.span.num_rows - 1
        return f"rows {self.span.first_row} to {last} of {self.shard.uri}"


@dataclass(frozen=True)
class CompactTask:
    """One future: the span files of a contiguous range of shards → one part."""

    digests: tuple[str, ...]
    round_number: int
    measurement: Measurement

    def __str__(self) -> str:
        return f"a part of {len(self.digests)} spans"
