"""Counters of a stream: bytes, requests, waiting time, and samples that cannot be used."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from attent_select.errors import InputError, SampleError
from catalogs.losses.unusable import Example, Unusable
from catalogs.shard_format import Shard
from catalogs.storage import ReadMeter

# Unusable samples that are always allowed: a share means little for the first few samples.
_ALWAYS_ALLOWED = 16


@dataclass
class StreamStats:
    """What a stream has cost so far, on one rank.

    Attributes:
        shards: those of the corpus.
        max_failed_share: more unusable samples than this share end training.
        num_samples: samples handed out.
        num_skipped: samples that could not be used.
        num_truncated: samples that the task cut to its limit.
        num_units: units (tokens) of the samples handed out, whether they count in a loss or not.
        num_padded_units: the same with the padding of their micro-batches.
        pads: whether the model pads packed samples.
        bytes_selected: extent of the samples that were read in their shards.
        padded, dropped: missing samples of the last global batches, and samples left out with them.
        blocked_seconds: time that the consumer waited for batches.
        first_batch_seconds: time until the first batch.
        unusable: samples that could not be used; those before a resume are only in `num_skipped`.
        last_skipped: the last sample that could not be used, and why.
        meter: bytes and requests, footers and member indexes included; cached bytes came from the
            node's cache.
    """

    shards: Sequence[Shard] = field(repr=False)
    max_failed_share: float
    num_samples: int = 0
    num_skipped: int = 0
    num_truncated: int = 0
    num_units: int = 0
    num_padded_units: int = 0
    pads: bool = False
    bytes_selected: int = 0
    padded: int = 0
    dropped: int = 0
    blocked_seconds: float = 0.0
    first_batch_seconds: float = 0.0
    unusable: Unusable = field(default_factory=Unusable)
    last_skipped: str = ""
    meter: ReadMeter = field(default_factory=ReadMeter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def bytes_read(self) -> int:
        return self.meter.num_bytes

    @property
    def bytes_cached(self) -> int:
        return self.meter.cached_bytes

    @property
    def num_requests(self) -> int:
        return self.meter.num_requests

    @property
    def read_amplification(self) -> float:
        return self.bytes_read / self.bytes_selected if self.bytes_selected else 0.0

    @property
    def padding(self) -> float:
        """Share of the units in micro-batches that are padding."""
        return 1 - self.num_units / self.num_padded_units if self.num_padded_units else 0.0

    def count_selected(self, num_bytes: int) -> None:
        """Count the bytes of samples that were read, in their shards."""
        with self._lock:
            self.bytes_selected += num_bytes

    def count(self, num_samples: int, *, truncated: int) -> None:
        """Count samples handed out, and how many of them were truncated."""
        with self._lock:
            self.num_samples += num_samples
            self.num_truncated += truncated

    def count_units(self, num_units: int, *, padded: int) -> None:
        """Count the units of a micro-batch, without and with padding."""
        with self._lock:
            self.num_units += num_units
            self.num_padded_units += padded

    def skip(self, shard_id: int, *, row: int, error: SampleError) -> None:
        """Count a sample that cannot be used.

        Raises:
            InputError: the share of such samples exceeds `max_failed_share`.
        """
        with self._lock:
            self.num_skipped += 1
            example = Example(self.shards[shard_id].uri, row, error.status, str(error))
            self.unusable.add(example)
            self.last_skipped = str(example)
            skipped = self.num_skipped
            total = self.num_samples + skipped
        if skipped > max(_ALWAYS_ALLOWED, self.max_failed_share * total):
            raise InputError(
                f"{skipped} of {total} samples cannot be used, more than scoring.max_failed_share "
                f"{self.max_failed_share} allows: {self.unusable}. Fix the corpus or the task "
                "settings, or raise scoring.max_failed_share"
            ) from error
